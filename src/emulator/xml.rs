//! XML as the emulator speaks it: a writer that escapes, and a reader into small trees.
//!
//! Written for this server alone; the client reads and writes its own, so that one checks the other.

use quick_xml::Reader;
use quick_xml::events::Event;

use super::error::{Failure, Outcome};

/// A document being written. Elements are closed in the order they were opened.
#[derive(Debug)]
pub(super) struct Writer {
    out: String,
    open: Vec<&'static str>,
}

impl Writer {
    /// Begins a document with its root.
    pub(super) fn new(root: &'static str) -> Self {
        Self { out: String::from(DECLARATION), open: Vec::new() }.open(root)
    }

    /// A document of a root with text.
    pub(super) fn leaf(root: &'static str, text: &str) -> String {
        Self { out: String::from(DECLARATION), open: Vec::new() }.text(root, text).finish()
    }

    pub(super) fn open(mut self, name: &'static str) -> Self {
        self.out.extend(["<", name, ">"]);
        self.open.push(name);
        self
    }

    /// Opens with attributes, which are written as they are.
    pub(super) fn open_with(mut self, name: &'static str, attributes: &str) -> Self {
        self.out.extend(["<", name, " ", attributes, ">"]);
        self.open.push(name);
        self
    }

    pub(super) fn close(mut self) -> Self {
        if let Some(name) = self.open.pop() {
            self.out.extend(["</", name, ">"]);
        }
        self
    }

    /// `<name>text</name>`, or `<name/>` for nothing.
    pub(super) fn text(mut self, name: &'static str, text: &str) -> Self {
        if text.is_empty() {
            self.out.extend(["<", name, "/>"]);
        } else {
            self.out.extend(["<", name, ">"]);
            escape(text, &mut self.out);
            self.out.extend(["</", name, ">"]);
        }
        self
    }

    /// `<name>number</name>`.
    pub(super) fn number(self, name: &'static str, number: u64) -> Self {
        self.text(name, &number.to_string())
    }

    /// Text only if there is some.
    pub(super) fn optional(self, name: &'static str, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    /// Repeats a step for each item.
    pub(super) fn each<T>(self, items: impl IntoIterator<Item = T>, step: impl FnMut(Self, T) -> Self) -> Self {
        items.into_iter().fold(self, step)
    }

    /// The document, everything closed.
    pub(super) fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self = self.close();
        }
        self.out
    }
}

const DECLARATION: &str = "<?xml version='1.0' encoding='utf-8' ?>\n";

/// Escapes what XML must have escaped. Control characters go out raw, as COS sends them: the document is then no XML, which is why clients
/// ask for `encoding-type=url`.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c => out.push(c),
        }
    }
}

/// One element of a parsed document; attributes but `type` are dropped, as is text beside children.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) text: String,
    /// The attribute `xsi:type`.
    pub(super) kind: Option<String>,
    pub(super) children: Vec<Self>,
}

impl Element {
    /// The first child of that name.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of that name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the child of that name.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }
}

/// Elements may be nested this deep in a request; COS's own documents need five.
const MAX_DEPTH: usize = 16;

/// Parses a request body whose root must be `root`.
pub(super) fn parse(body: &[u8], root: &str) -> Outcome<Element> {
    let text = std::str::from_utf8(body).map_err(|_| Failure::malformed_xml("The document is not UTF-8."))?;
    let broken = |error: &dyn std::fmt::Display| Failure::malformed_xml(format!("The document cannot be read: {error}"));
    let mut reader = Reader::from_str(text);
    let mut stack = vec![Element::default()];
    loop {
        let event = reader.read_event().map_err(|e| broken(&e))?;
        match event {
            Event::Start(tag) | Event::Empty(tag) if stack.len() > MAX_DEPTH => {
                return Err(broken(&format!("nested deeper than {MAX_DEPTH} at {}", tag.name().as_ref())));
            }
            Event::Start(tag) => stack.push(element(&tag)?),
            Event::Empty(tag) => {
                let done = element(&tag)?;
                add(&mut stack, done);
            }
            Event::End(_) => {
                let Some(mut done) = stack.pop() else { return Err(broken(&"an element is closed twice")) };
                if !done.children.is_empty() {
                    done.text.clear();
                }
                add(&mut stack, done);
            }
            Event::Text(piece) => push_text(&mut stack, &piece.xml10_content()),
            Event::CData(piece) => push_text(&mut stack, &piece.xml10_content()),
            Event::GeneralRef(reference) => {
                let c = match reference.resolve_char_ref().map_err(|e| broken(&e))? {
                    Some(c) => c,
                    None => match reference.into_inner().as_ref() {
                        "lt" => '<',
                        "gt" => '>',
                        "amp" => '&',
                        "quot" => '"',
                        "apos" => '\'',
                        other => return Err(broken(&format!("the entity {other} is unknown"))),
                    },
                };
                push_text(&mut stack, c.encode_utf8(&mut [0; 4]));
            }
            Event::DocType(_) => return Err(broken(&"a document type is not allowed")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    if stack.len() != 1 {
        return Err(broken(&"an element is not closed"));
    }
    let found = stack.pop().and_then(|top| top.children.into_iter().next());
    found.filter(|element| element.name == root).ok_or_else(|| broken(&format!("its root is not {root}")))
}

fn element(tag: &quick_xml::events::BytesStart<'_>) -> Outcome<Element> {
    let name = tag.local_name().as_ref().to_owned();
    let mut kind = None;
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|e| Failure::malformed_xml(format!("An attribute cannot be read: {e}")))?;
        if attribute.key.local_name().as_ref() == "type" {
            kind = Some(attribute.value.clone().into_owned());
        }
    }
    Ok(Element { name, kind, ..Element::default() })
}

fn add(stack: &mut [Element], done: Element) {
    if let Some(parent) = stack.last_mut() {
        parent.children.push(done);
    }
}

fn push_text(stack: &mut [Element], text: &str) {
    if let Some(top) = stack.last_mut() {
        top.text.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let text = Writer::new("Delete").text("Quiet", "true").open("Object").text("Key", "a<&>\"' b\u{1F600}").close().finish();
        let tree = parse(text.as_bytes(), "Delete").unwrap();
        assert_eq!(tree.text_of("Quiet"), Some("true"));
        assert_eq!(tree.child("Object").unwrap().text_of("Key"), Some("a<&>\"' b\u{1F600}"));
    }

    #[test]
    fn refuses_what_no_client_sends() {
        let deep = format!("{}{}", "<a>".repeat(40), "</a>".repeat(40));
        for bad in ["", "<Delete>", "<Other/>", "<!DOCTYPE x [<!ENTITY e 'e'>]><Delete/>", "<Delete>&e;</Delete>", &deep, "\u{0}"] {
            assert!(parse(bad.as_bytes(), "Delete").is_err(), "{bad}");
        }
        assert!(parse(b"\xff", "Delete").is_err());
    }
}
