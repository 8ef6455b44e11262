//! A small shell for the sample's containers, so that `kubectl exec -it ... -- sh` shows what is inside: it runs programs and
//! a few commands of its own. It has words, quotes, variables, `;`, `&&`, `||` and redirections; no pipes, loops or functions.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The names under which the image links this program.
pub const NAMES: [&str; 6] = ["sh", "ls", "cat", "ps", "env", "echo"];

const HELP: &str = "This is the sample application's shell. It runs programs, and has itself: cat, cd, echo, env, exit, export, \
                    help, ls, ps, pwd.";

/// The command that the program was called as, if it is one of the shell's.
pub fn called(name: &std::ffi::OsStr) -> Option<&'static str> {
    let name = Path::new(name).file_name()?;
    NAMES.into_iter().find(|known| name == *known || name == format!("-{known}").as_str())
}

/// What `sh` and its commands do when they are called as programs; gives the exit code.
pub fn main(name: &str, arguments: Vec<String>) -> ExitCode {
    let mut shell = Shell::default();
    let code = match (name, arguments.first().map(String::as_str)) {
        ("sh", Some("-c")) => shell.script(arguments.get(1).map_or("", String::as_str)),
        ("sh", Some(file)) if !file.starts_with('-') => match fs::read_to_string(file) {
            Ok(text) => shell.script(&text),
            Err(error) => complain(file, &error.to_string(), 127),
        },
        ("sh", _) => shell.converse(),
        (command, _) => {
            let words = std::iter::once(command.to_owned()).chain(arguments).collect::<Vec<_>>();
            shell.own(&words, &mut io::stdout()).unwrap_or(127)
        }
    };
    ExitCode::from(code)
}

#[derive(Default)]
struct Shell {
    /// What was exported here; before the environment.
    exported: BTreeMap<String, String>,
    /// Of the last command: `$?`.
    status: u8,
    ended: Option<u8>,
}

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `;`, `&&`, `||`, `>`, `>>`, `<`
    Operator(&'static str),
}

impl Shell {
    fn script(&mut self, text: &str) -> u8 {
        for line in text.lines() {
            self.line(line);
            if let Some(code) = self.ended {
                return code;
            }
        }
        self.status
    }

    /// Reads commands until the end of input, with a prompt where somebody sits there.
    fn converse(&mut self) -> u8 {
        let (input, terminal) = (io::stdin(), io::stdin().is_terminal());
        // Ctrl-C is for the program that runs, not for the shell.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok().filter(|_| terminal);
        let _inside = runtime.as_ref().map(|runtime| runtime.enter());
        let _heard =
            runtime.as_ref().map(|_| tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()));
        let mut lines = input.lock();
        loop {
            if terminal {
                let place = std::env::current_dir().unwrap_or_default();
                print!("{} $ ", place.display());
                // Without a terminal to write to nobody sees the prompt.
                let _ = io::stdout().flush();
            }
            let mut line = String::new();
            match lines.read_line(&mut line) {
                Ok(0) | Err(_) => {
                    if terminal {
                        println!();
                    }
                    return self.status;
                }
                Ok(_) => self.line(&line),
            }
            if let Some(code) = self.ended {
                return code;
            }
        }
    }

    fn line(&mut self, line: &str) {
        let mut tokens: VecDeque<Token> = match tokens(line, &|name| self.variable(name)) {
            Ok(tokens) => tokens.into(),
            Err(error) => {
                self.status = complain("sh", &error, 2);
                return;
            }
        };
        let mut runs = true;
        while !tokens.is_empty() && self.ended.is_none() {
            let end = tokens.iter().position(|token| matches!(token, Token::Operator(";" | "&&" | "||")));
            let command: Vec<Token> = tokens.drain(..end.unwrap_or(tokens.len())).collect();
            if runs && !command.is_empty() {
                self.status = self.command(command);
            }
            runs = match tokens.pop_front() {
                Some(Token::Operator("&&")) => self.status == 0,
                Some(Token::Operator("||")) => self.status != 0,
                _ => true,
            };
        }
    }

    fn command(&mut self, tokens: Vec<Token>) -> u8 {
        let (mut words, mut output, mut input) = (Vec::new(), None, None);
        let mut tokens = tokens.into_iter();
        while let Some(token) = tokens.next() {
            let operator = match token {
                Token::Word(word) => {
                    words.push(word);
                    continue;
                }
                Token::Operator(operator) => operator,
            };
            let Some(Token::Word(file)) = tokens.next() else { return complain("sh", "a file's name is missing", 2) };
            let opened = match operator {
                ">" => File::create(&file).map(|file| output = Some(file)),
                ">>" => File::options().append(true).create(true).open(&file).map(|file| output = Some(file)),
                _ => File::open(&file).map(|file| input = Some(file)),
            };
            if let Err(error) = opened {
                return complain(&file, &error.to_string(), 1);
            }
        }
        if words.is_empty() {
            return 0;
        }
        let own = match &mut output {
            Some(file) => self.own(&words, file),
            None => self.own(&words, &mut io::stdout()),
        };
        own.unwrap_or_else(|| self.program(&words, output, input))
    }

    /// Runs one of the shell's own commands; `None` for any other.
    fn own(&mut self, words: &[String], out: &mut dyn Write) -> Option<u8> {
        let (name, arguments) = (words.first()?.as_str(), &words[1..]);
        let first = arguments.first().map(String::as_str);
        let done = match name {
            ":" | "true" => Ok(0),
            "false" => Ok(1),
            "help" => writeln!(out, "{HELP}").map(|()| 0),
            "echo" => echo(arguments, out).map(|()| 0),
            "pwd" => std::env::current_dir().and_then(|place| writeln!(out, "{}", place.display())).map(|()| 0),
            "cd" => {
                let home = std::env::var("HOME").unwrap_or_else(|_| "/".to_owned());
                let to = first.unwrap_or(&home);
                match std::env::set_current_dir(to) {
                    Ok(()) => Ok(0),
                    Err(error) => Ok(complain(&format!("cd: {to}"), &error.to_string(), 1)),
                }
            }
            "exit" => {
                let code = first.map_or(Some(self.status), |text| text.parse::<i64>().ok().map(|code| code as u8));
                self.ended = Some(code.unwrap_or_else(|| complain("exit", "not a number", 2)));
                Ok(self.ended.unwrap_or(0))
            }
            "export" => {
                let pairs = arguments.iter().filter_map(|word| word.split_once('='));
                self.exported.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
                Ok(0)
            }
            "cat" => Ok(cat(arguments, out)),
            "ls" => Ok(ls(arguments, out)),
            "ps" => ps(out).map(|()| 0),
            "env" if arguments.is_empty() => self.env(out).map(|()| 0),
            _ => return None,
        };
        Some(done.unwrap_or_else(|error| complain(name, &error.to_string(), 1)))
    }

    fn program(&self, words: &[String], output: Option<File>, input: Option<File>) -> u8 {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(&self.exported);
        if let Some(file) = output {
            command.stdout(file);
        }
        if let Some(file) = input {
            command.stdin(file);
        }
        match command.status() {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => code as u8,
                (None, signal) => 128 + signal.unwrap_or(0) as u8,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => complain(&words[0], "not found", 127),
            Err(error) => complain(&words[0], &error.to_string(), 126),
        }
    }

    fn env(&self, out: &mut dyn Write) -> io::Result<()> {
        let variables = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
        let mut all: BTreeMap<String, String> = variables.collect();
        all.extend(self.exported.clone());
        all.iter().try_for_each(|(name, value)| writeln!(out, "{name}={value}"))
    }

    fn variable(&self, name: &str) -> String {
        match name {
            "?" => self.status.to_string(),
            "$" => std::process::id().to_string(),
            name => self.exported.get(name).cloned().or_else(|| std::env::var(name).ok()).unwrap_or_default(),
        }
    }
}

fn complain(what: &str, why: &str, code: u8) -> u8 {
    // Where nobody listens the code tells all the same.
    let _ = writeln!(io::stderr(), "{what}: {why}");
    code
}

fn echo(words: &[String], out: &mut dyn Write) -> io::Result<()> {
    match words.split_first() {
        Some((first, rest)) if first == "-n" => write!(out, "{}", rest.join(" ")),
        _ => writeln!(out, "{}", words.join(" ")),
    }
}

fn cat(files: &[String], out: &mut dyn Write) -> u8 {
    if files.is_empty() {
        return io::copy(&mut io::stdin().lock(), out).map_or_else(|e| complain("cat", &e.to_string(), 1), |_| 0);
    }
    let mut code = 0;
    for file in files {
        if let Err(error) = File::open(file).and_then(|mut from| io::copy(&mut from, out)) {
            code = complain(&format!("cat: {file}"), &error.to_string(), 1);
        }
    }
    code
}

fn ls(arguments: &[String], out: &mut dyn Write) -> u8 {
    let (options, mut places): (Vec<_>, Vec<_>) =
        arguments.iter().map(String::as_str).partition(|word| word.starts_with('-') && word.len() > 1);
    let has = |letter| options.iter().any(|option| option.contains(letter));
    if places.is_empty() {
        places.push(".");
    }
    let titled = places.len() > 1;
    let mut code = 0;
    for place in places {
        match entries(Path::new(place), has('a')) {
            Ok(names) => {
                let mut text = if titled { format!("{place}:\n") } else { String::new() };
                for (name, path) in names {
                    text += &if has('l') { long(&name, &path) } else { format!("{name}\n") };
                }
                if let Err(error) = out.write_all(text.as_bytes()) {
                    return complain("ls", &error.to_string(), 1);
                }
            }
            Err(error) => code = complain(&format!("ls: {place}"), &error.to_string(), 1),
        }
    }
    code
}

/// The names in a directory, in order; of what is none, only itself.
fn entries(place: &Path, all: bool) -> io::Result<Vec<(String, std::path::PathBuf)>> {
    if !fs::metadata(place)?.is_dir() {
        return Ok(vec![(place.display().to_string(), place.to_owned())]);
    }
    let mut names: Vec<_> = fs::read_dir(place)?
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(name, _)| all || !name.starts_with('.'))
        .collect();
    names.sort();
    Ok(names)
}

fn long(name: &str, path: &Path) -> String {
    let Ok(about) = fs::symlink_metadata(path) else { return format!("? {name}\n") };
    let kind = match (about.is_dir(), about.is_symlink()) {
        (true, _) => 'd',
        (_, true) => 'l',
        _ => '-',
    };
    let mode = about.permissions().mode();
    let bits: String =
        (0..9).map(|bit| if mode & (0o400 >> bit) == 0 { '-' } else { ['r', 'w', 'x'][bit % 3] }).collect();
    let to = fs::read_link(path).map(|to| format!(" -> {}", to.display())).unwrap_or_default();
    format!("{kind}{bits} {:>3} {:>5} {:>5} {:>10} {name}{to}\n", about.nlink(), about.uid(), about.gid(), about.len())
}

fn ps(out: &mut dyn Write) -> io::Result<()> {
    let mut found: Vec<(u32, u32, String)> = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let (Ok(about), Ok(command)) = (entry.metadata(), fs::read(entry.path().join("cmdline"))) else { continue };
        let words: Vec<_> = command.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
        let text = String::from_utf8_lossy(&words.join(&b' ')).into_owned();
        let name = || fs::read_to_string(entry.path().join("comm")).map(|name| format!("[{}]", name.trim()));
        found.push((pid, about.uid(), if text.is_empty() { name().unwrap_or_default() } else { text }));
    }
    found.sort();
    writeln!(out, "{:>7} {:>7} COMMAND", "PID", "USER")?;
    found.iter().try_for_each(|(pid, user, command)| writeln!(out, "{pid:>7} {user:>7} {command}"))
}

/// The pieces of a line, with quotes taken away and variables put in.
fn tokens(line: &str, lookup: &dyn Fn(&str) -> String) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = line.trim_end_matches(['\n', '\r']).chars().peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '$') => {
                let value = variable(&mut rest, lookup);
                word.get_or_insert_default().push_str(&value);
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(rest.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => found.extend(word.take().map(Token::Word)),
            (None, ';' | '&' | '|' | '>' | '<') => {
                found.extend(word.take().map(Token::Word));
                let twice = c != ';' && c != '<' && rest.next_if_eq(&c).is_some();
                found.push(Token::Operator(match (c, twice) {
                    (';', _) => ";",
                    ('<', _) => "<",
                    ('>', false) => ">",
                    ('>', true) => ">>",
                    ('&', true) => "&&",
                    ('|', true) => "||",
                    _ => return Err(format!("this shell has no `{c}`")),
                }));
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    found.extend(word.map(Token::Word));
    Ok(found)
}

/// The value of what follows a `$`.
fn variable(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, lookup: &dyn Fn(&str) -> String) -> String {
    if let Some(special) = rest.next_if(|c| matches!(c, '?' | '$')) {
        return lookup(&special.to_string());
    }
    let braced = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if braced {
        rest.next_if_eq(&'}');
    }
    if name.is_empty() { "$".to_owned() } else { lookup(&name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_words_and_operators() {
        let word = |text: &str| Token::Word(text.to_owned());
        let lookup = |name: &str| if name == "?" { "7".to_owned() } else { String::new() };
        for (line, expected) in [
            ("echo  a 'b c' \"d  e\"", vec![word("echo"), word("a"), word("b c"), word("d  e")]),
            (
                "a&&b || c;d",
                vec![
                    word("a"),
                    Token::Operator("&&"),
                    word("b"),
                    Token::Operator("||"),
                    word("c"),
                    Token::Operator(";"),
                    word("d"),
                ],
            ),
            ("echo $? '$?' \"$?\"", vec![word("echo"), word("7"), word("$?"), word("7")]),
            ("a '' # b", vec![word("a"), word("")]),
            ("x>y", vec![word("x"), Token::Operator(">"), word("y")]),
            (r"a\ b \$", vec![word("a b"), word("$")]),
            ("echo $NO_SUCH_VARIABLE.", vec![word("echo"), word(".")]),
        ] {
            assert_eq!(tokens(line, &lookup).expect(line), expected, "{line}");
        }
        assert!(tokens("a | b", &lookup).expect_err("refused").contains("`|`"));
        assert!(tokens("'a", &lookup).is_err());
    }

    #[test]
    fn commands_run_by_the_outcome_of_those_before_and_exit_ends() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("out");
        let run = |line: &str| {
            let mut shell = Shell::default();
            let code = shell.script(&line.replace("OUT", file.to_str().expect("path")));
            (code, fs::read_to_string(&file).unwrap_or_default())
        };
        assert_eq!(
            run("echo one > OUT; false && echo two >> OUT; false || echo three >> OUT"),
            (0, "one\nthree\n".to_owned())
        );
        assert_eq!(run("echo a > OUT\nexit 7; echo b >> OUT\necho c >> OUT"), (7, "a\n".to_owned()));
        assert_eq!(run("cat OUT > OUT.2; cat OUT.2 OUT.2 > OUT"), (0, "a\na\n".to_owned()));
        assert_eq!(run("export GREETING=hi\necho $GREETING ${GREETING}! > OUT").1, "hi hi!\n");
        assert_eq!(run("no-such-program-here").0, 127);
        assert_eq!(run("cat /none").0, 1);
        let listed = run(&format!("ls {} > OUT", directory.path().display())).1;
        assert!(listed.contains("out\n") && listed.contains("out.2\n"), "{listed}");
        assert!(run("ps > OUT").1.contains("COMMAND"));
    }

    #[test]
    fn the_shell_is_known_by_the_name_that_it_is_called_by() {
        for (name, expected) in [("/bin/sh", Some("sh")), ("-sh", Some("sh")), ("cat", Some("cat")), ("/regatta", None)]
        {
            assert_eq!(called(name.as_ref()), expected, "{name}");
        }
    }
}
