//! Tables as `kubectl get` prints them: columns with the functions that make their cells, and durations for people.

use serde_json::Value;

use crate::kind::{Column, Strategy};
use crate::kinds::access::{at, number, text};

/// A column together with how its cell is made.
pub struct Cell {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    priority: i32,
    of: Of,
}

enum Of {
    /// The text at a path; numbers and flags as text.
    Text(&'static str),
    /// The whole number at a path, 0 where absent.
    Number(&'static str),
    /// How long ago the time at a path was.
    Since(&'static str),
    /// The value as it is.
    Raw(&'static str),
    Made(fn(&Value) -> Value),
    Timed(fn(&Value, i64) -> Value),
}

/// The name's column, which comes first.
pub const NAME: Cell = Cell { name: "Name", kind: "string", format: "name", priority: 0, of: Of::Raw("metadata.name") };

/// How long ago the object was created.
pub const AGE: Cell = Cell::since("Age", "metadata.creationTimestamp");

/// The columns of a kind for which upstream has no printer.
pub const CREATED: &[Cell] = &[
    NAME,
    Cell { name: "Created At", kind: "date", format: "", priority: 0, of: Of::Raw("metadata.creationTimestamp") },
];

impl Cell {
    const fn new(name: &'static str, kind: &'static str, of: Of) -> Self {
        Cell { name, kind, format: "", priority: 0, of }
    }

    /// The text at a path.
    pub const fn text(name: &'static str, path: &'static str) -> Self {
        Cell::new(name, "string", Of::Text(path))
    }

    /// The whole number at a path, 0 where absent.
    pub const fn number(name: &'static str, path: &'static str) -> Self {
        Cell::new(name, "integer", Of::Number(path))
    }

    /// How long ago the time at a path was, `<unknown>` where there is none.
    pub const fn since(name: &'static str, path: &'static str) -> Self {
        Cell::new(name, "string", Of::Since(path))
    }

    /// A text made from the object.
    pub const fn made(name: &'static str, make: fn(&Value) -> Value) -> Self {
        Cell::new(name, "string", Of::Made(make))
    }

    /// The name with something added to it.
    pub const fn name_of(make: fn(&Value) -> Value) -> Self {
        Cell { name: "Name", kind: "string", format: "name", priority: 0, of: Of::Made(make) }
    }

    /// A cell made from the object and the time now, in seconds since 1970.
    pub const fn timed(name: &'static str, make: fn(&Value, i64) -> Value) -> Self {
        Cell::new(name, "string", Of::Timed(make))
    }

    /// Shown with `-o wide` only.
    pub const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    /// With another OpenAPI type than the usual one.
    pub const fn typed(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    /// The column's definition.
    pub fn column(&self) -> Column {
        Column {
            name: self.name.into(),
            kind: self.kind.into(),
            format: self.format.into(),
            priority: self.priority,
            description: if self.format == "name" { NAME_IS.into() } else { "".into() },
        }
    }

    fn make(&self, object: &Value, now: i64) -> Value {
        match self.of {
            Of::Text(path) => match at(object, path) {
                Value::Null => Value::from(""),
                Value::String(text) => Value::from(text.as_str()),
                other => Value::from(other.to_string()),
            },
            Of::Number(path) => Value::from(number(object, path)),
            Of::Since(path) => Value::from(since(text(object, path), now)),
            Of::Raw(path) => at(object, path).clone(),
            Of::Made(make) => make(object),
            Of::Timed(make) => make(object, now),
        }
    }
}

const NAME_IS: &str = "Name must be unique within a namespace. Is required when creating resources, although some \
    resources may allow a client to request the generation of an appropriate name automatically.";

/// The cells of one object, in the columns' order.
pub fn row(cells: &[Cell], object: &Value, now: i64) -> Vec<Value> {
    cells.iter().map(|cell| cell.make(object, now)).collect()
}

/// The strategy of a kind that has columns and nothing else of its own.
pub struct Rows(pub &'static [Cell]);

impl Strategy for Rows {
    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        row(self.0, object, now)
    }
}

/// How long ago a time (RFC 3339) was, for people; `<unknown>` for none.
pub fn since(time: &str, now: i64) -> String {
    match seconds(time) {
        Some(then) => duration(now - then),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds since 1970 of an RFC 3339 time.
pub fn seconds(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// A duration in seconds as kubectl's `HumanDuration` writes it: two digits of precision or so.
pub fn duration(seconds: i64) -> String {
    let pair = |big: i64, unit: char, small: i64, part: char| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{part}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => pair(days, 'd', hours % 24, 'h'),
        () if days < 730 => format!("{days}d"),
        () if days < 2920 => pair(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

/// `key=value,...` in the keys' order, or `<none>`.
pub fn labels(map: &Value) -> String {
    let entries = map.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        entries.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    joined(&pairs, ",")
}

/// The texts joined, or `<none>`.
pub fn joined<S: AsRef<str>>(parts: &[S], between: &str) -> String {
    if parts.is_empty() {
        return "<none>".to_owned();
    }
    parts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_writes_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400, "8d"),
            (730 * 86400, "2y"),
            (731 * 86400, "2y1d"),
            (2920 * 86400, "8y"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}
