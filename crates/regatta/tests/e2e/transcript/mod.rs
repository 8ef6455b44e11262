//! Tests as transcripts of a shell: files, commands, and what their output must hold.
//!
//!     > name        a file; its lines follow until one that is `<`
//!     $ command     must succeed
//!     ! command     must fail
//!     ~ command     is repeated until it succeeds and its output is as wanted
//!     # text        a remark
//!
//! The lines below a command are parts of its output and errors, in that order; `not: text` may not occur. Spaces count as one.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, PATIENCE, text};

struct Step<'t> {
    kind: char,
    command: &'t str,
    wanted: Vec<&'t str>,
}

/// Runs the transcript's commands in a directory of their own, with `path` before the others on PATH.
pub fn run(cluster: &Cluster, transcript: &str, path: &str) {
    let directory = tempfile::tempdir().expect("directory");
    let mut lines = transcript.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((kind, rest)) = line.chars().next().map(|c| (c, line[c.len_utf8()..].trim())) else { continue };
        match kind {
            '#' => {}
            '>' => {
                let content: Vec<&str> = lines.by_ref().take_while(|line| *line != "<").collect();
                let file = directory.path().join(rest);
                std::fs::create_dir_all(file.parent().expect("parent")).expect("directory");
                std::fs::write(file, content.join("\n") + "\n").expect("file");
            }
            '$' | '!' | '~' => {
                let mut wanted = Vec::new();
                while let Some(line) = lines.next_if(|line| !line.starts_with(['#', '>', '$', '!', '~'])) {
                    wanted.extend(Some(line.trim()).filter(|line| !line.is_empty()));
                }
                Step { kind, command: rest, wanted }.run(cluster, directory.path(), path);
            }
            other => panic!("a transcript's line begins with {other:?}: {line}"),
        }
    }
}

impl Step<'_> {
    fn run(&self, cluster: &Cluster, directory: &std::path::Path, path: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (ok, output) = self.execute(cluster, directory, path);
            let complaint = if ok == (self.kind == '!') {
                Some(format!("it {}", if ok { "succeeds" } else { "fails" }))
            } else {
                missing(&output, &self.wanted)
            };
            match complaint {
                None => return,
                Some(_) if self.kind == '~' && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Some(complaint) => panic!("{}\n{complaint}\n{output}\n{}", self.command, cluster.log()),
            }
        }
    }

    fn execute(&self, cluster: &Cluster, directory: &std::path::Path, path: &str) -> (bool, String) {
        let search = format!("{path}:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = cluster.machine.command("timeout");
        command
            .args(["60", "sh", "-c", self.command])
            .current_dir(directory)
            .env("PATH", search)
            .env("HOME", directory)
            .env("KUBECONFIG", cluster.data.join("kubeconfig.yaml"));
        let output = command.output().expect("sh runs");
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }
}

/// What is not in the output as it should be.
fn missing(output: &str, wanted: &[&str]) -> Option<String> {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let output = plain(output);
    let mut rest = output.as_str();
    for line in wanted {
        if let Some(unwanted) = line.strip_prefix("not:") {
            if output.contains(&plain(unwanted)) {
                return Some(format!("there is {unwanted:?}"));
            }
            continue;
        }
        match rest.split_once(&plain(line)) {
            Some((_, after)) => rest = after,
            None => return Some(format!("there is no {line:?}")),
        }
    }
    None
}

/// The directory of a stock client that `scripts/test` has fetched, from the variable that names its program.
pub fn directory_of(variable: &str, program: &str) -> String {
    let given = std::env::var(variable).unwrap_or_else(|_| program.to_owned());
    match given.rsplit_once('/') {
        Some((directory, _)) => directory.to_owned(),
        None => ".".to_owned(),
    }
}
