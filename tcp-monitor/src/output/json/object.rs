//! An object of JSON, written field by field.

use std::net::SocketAddr;
use std::time::Duration;

use crate::output::append::Append;

/// Appends fields of an object. Their names are constants that need no escaping.
pub(super) struct Object<'a> {
    text: &'a mut String,
    start: usize,
}

/// A value of a field.
pub(super) trait Value {
    fn append_value(self, to: &mut String);
}

impl<'a> Object<'a> {
    /// Appends an object to `text`, with the fields that `write` adds.
    pub(super) fn append(text: &'a mut String, write: impl FnOnce(&mut Object<'_>)) {
        let start = text.len();
        // In place of the comma that the first field begins with.
        text.push('{');
        write(&mut Object { text, start });
        text.push('}');
    }

    /// Adds a field.
    #[inline]
    pub(super) fn field(&mut self, name: &'static str, value: impl Value) {
        self.name(name);
        value.append_value(self.text);
    }

    /// Adds a field if its value is known.
    #[inline]
    pub(super) fn optional(&mut self, name: &'static str, value: Option<impl Value>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    /// Adds `true`, or nothing.
    #[inline]
    pub(super) fn flag(&mut self, name: &'static str, is_set: bool) {
        if is_set {
            self.field(name, true);
        }
    }

    /// Adds an array of labels.
    pub(super) fn labels(&mut self, name: &'static str, labels: impl Iterator<Item = &'static str>) {
        self.name(name);
        self.text.push('[');
        for (index, label) in labels.enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            label.append_value(self.text);
        }
        self.text.push(']');
    }

    /// Adds an object, unless it has no fields.
    pub(super) fn object(&mut self, name: &'static str, write: impl FnOnce(&mut Object<'_>)) {
        let end = self.text.len();
        self.name(name);
        let start = self.text.len();
        Object::append(self.text, write);
        if self.text.len() == start + "{}".len() {
            self.text.truncate(end);
        }
    }

    #[inline]
    fn name(&mut self, name: &'static str) {
        let is_first = self.text.len() == self.start + "{".len();
        self.text.push_str(if is_first { "\"" } else { ",\"" });
        self.text.push_str(name);
        self.text.push_str("\":");
    }
}

macro_rules! number_values {
    ($($number:ty)*) => {$(
        impl Value for $number {
            #[inline]
            fn append_value(self, to: &mut String) {
                self.append_to(to);
            }
        }
    )*};
}

number_values!(u8 u16 u32 u64);

/// Microseconds.
impl Value for Duration {
    fn append_value(self, to: &mut String) {
        u64::try_from(self.as_micros()).unwrap_or(u64::MAX).append_to(to);
    }
}

impl Value for bool {
    #[inline]
    fn append_value(self, to: &mut String) {
        to.push_str(if self { "true" } else { "false" });
    }
}

impl Value for SocketAddr {
    fn append_value(self, to: &mut String) {
        ('"', self, '"').append_to(to);
    }
}

/// A label or a hint: a constant that needs no escaping.
impl Value for &'static str {
    #[inline]
    fn append_value(self, to: &mut String) {
        ('"', self, '"').append_to(to);
    }
}

/// Any text.
pub(super) struct Text<'a>(pub(super) &'a str);

impl Value for Text<'_> {
    fn append_value(self, to: &mut String) {
        to.push('"');
        if self.0.bytes().all(|byte| byte >= b' ' && !matches!(byte, b'"' | b'\\')) {
            to.push_str(self.0);
        } else {
            self.0.chars().for_each(|c| append_escaped(c, to));
        }
        to.push('"');
    }
}

/// RFC 8259, section 7.
fn append_escaped(c: char, to: &mut String) {
    match c {
        '"' | '\\' => ('\\', c).append_to(to),
        '\n' => to.push_str("\\n"),
        '\r' => to.push_str("\\r"),
        '\t' => to.push_str("\\t"),
        '\x08' => to.push_str("\\b"),
        '\x0c' => to.push_str("\\f"),
        '\0'..' ' => format_args!("\\u{:04x}", u32::from(c)).append_to(to),
        _ => to.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::{Object, Text, Value};

    #[test]
    fn any_text_is_escaped() {
        let text: String = (0..0x180).filter_map(char::from_u32).chain(['\u{2028}', '😀']).collect();
        for text in [text.as_str(), "", "nginx", "a\"b"] {
            let mut json = String::new();
            Text(text).append_value(&mut json);
            assert_eq!(json, serde_json::to_string(text).expect("JSON of a string"));
        }
    }

    #[test]
    fn an_object_within_an_object_is_left_out_if_it_is_empty() {
        let mut text = String::new();
        Object::append(&mut text, |object| {
            object.object("none", |_| {});
            object.optional("unknown", None::<u32>);
            object.flag("no", false);
            object.labels("flags", ["SYN", "ACK"].into_iter());
            object.object("some", |some| some.field("one", 1_u8));
            object.flag("yes", true);
        });
        assert_eq!(text, r#"{"flags":["SYN","ACK"],"some":{"one":1},"yes":true}"#);
    }
}
