//! Reads XML answers without trusting them.
//!
//! [`walk`] pulls events and tells a visitor which element opens and which closes with what text; nobody builds a tree. Lenient where servers
//! differ (unknown elements, namespaces, blanks before the document), strict where it matters: no DTD, no entities but the five of XML, bounded
//! depth and number of elements. The size is bounded by whoever read the document.

use quick_xml::{Reader, events::Event};

/// Deepest nesting of any answer we know is 5.
const DEPTH: usize = 16;

/// A full page of a listing has under 15,000 elements, one of buckets (2,000) as many, a multi-delete that refuses everything under 6,000.
const ELEMENTS: usize = 50_000;

/// Longest text of an element, and longest path to one. A key of 850 bytes has some 2,600 when every byte of it is percent-encoded.
const TEXT: usize = 64 << 10;
const PATH: usize = 1 << 10;

/// What the visitor is told. Paths are local names joined by `/`, without the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// An element begins.
    Open(&'a str),
    /// An element ends; the text is what stood directly in it behind its last child, blanks and all.
    Close(&'a str, &'a str),
}

/// Visits every element below the root and returns the root's name.
pub(super) fn walk(document: &[u8], mut visit: impl FnMut(Step<'_>)) -> Result<String, String> {
    let document = std::str::from_utf8(document).map_err(|_| "the document is not UTF-8".to_owned())?;
    let mut reader = Reader::from_str(document.trim_start());
    let (mut root, mut path, mut text) = (None::<String>, String::new(), String::new());
    // Lengths of `path` before each open element; the root's is not in the path.
    let mut open: Vec<usize> = Vec::new();
    let mut elements = 0;
    loop {
        match reader.read_event().map_err(|error| format!("the document is not XML: {error}"))? {
            Event::Start(tag) => {
                enter(tag.local_name().as_ref(), &mut root, &mut path, &mut open, &mut elements)?;
                text.clear();
                if open.len() > 1 {
                    visit(Step::Open(&path));
                }
            }
            Event::Empty(tag) => {
                enter(tag.local_name().as_ref(), &mut root, &mut path, &mut open, &mut elements)?;
                text.clear();
                if open.len() > 1 {
                    visit(Step::Open(&path));
                    visit(Step::Close(&path, ""));
                }
                path.truncate(open.pop().unwrap_or_default());
            }
            Event::End(_) => {
                if open.len() > 1 {
                    visit(Step::Close(&path, &text));
                }
                text.clear();
                path.truncate(open.pop().unwrap_or_default());
            }
            Event::Text(part) if !open.is_empty() => push(&mut text, &part),
            Event::CData(part) => push(&mut text, &part),
            Event::GeneralRef(name) => text.push(character(&name)?),
            Event::DocType(_) => return Err("the document has a DTD".to_owned()),
            Event::Eof => break,
            Event::Text(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
        if text.len() > TEXT {
            return Err("the document has a text that is too long".to_owned());
        }
    }
    if !open.is_empty() {
        return Err("the document ends early".to_owned());
    }
    root.ok_or_else(|| "the document is empty".to_owned())
}

/// Appends what there is room for, and one byte more to tell that it was not all.
fn push(text: &mut String, part: &str) {
    text.push_str(&part[..part.ceil_char_boundary(TEXT + 1 - text.len().min(TEXT))]);
}

fn enter(name: &str, root: &mut Option<String>, path: &mut String, open: &mut Vec<usize>, elements: &mut usize) -> Result<(), String> {
    *elements += 1;
    if open.len() == DEPTH || *elements > ELEMENTS {
        return Err("the document is nested too deeply or has too many elements".to_owned());
    }
    open.push(path.len());
    if open.len() == 1 {
        return match root.replace(name.to_owned()) {
            None => Ok(()),
            Some(_) => Err("the document has two roots".to_owned()),
        };
    }
    if !path.is_empty() {
        path.push('/');
    }
    if path.len() + name.len() > PATH {
        return Err("the document has a name that is too long".to_owned());
    }
    path.push_str(name);
    Ok(())
}

fn character(reference: &quick_xml::events::BytesRef<'_>) -> Result<char, String> {
    if let Some(character) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(character);
    }
    match reference.as_ref() {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "apos" => Ok('\''),
        "quot" => Ok('"'),
        other => Err(format!("the document uses the entity {other:?}")),
    }
}

/// The text as it stands in an element, or `None` if XML cannot express it.
pub(super) fn escape(text: &str) -> Option<String> {
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            // A parser would make these blanks or line ends of its own.
            '\t' => escaped.push_str("&#9;"),
            '\n' => escaped.push_str("&#10;"),
            '\r' => escaped.push_str("&#13;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => return None,
            c => escaped.push(c),
        }
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(document: &str) -> Result<(String, Vec<(String, String)>), String> {
        let mut seen = Vec::new();
        let root = walk(document.as_bytes(), |step| {
            if let Step::Close(path, text) = step {
                seen.push((path.to_owned(), text.to_owned()));
            }
        })?;
        Ok((root, seen))
    }

    #[test]
    fn text_is_told_with_its_path() {
        let (root, seen) = leaves("\n \n<?xml version='1.0'?><R xmlns=\"x\"><A><B>1 &lt;&#x41;</B><C/></A><E> q&quot;</E></R>").unwrap();
        assert_eq!(root, "R");
        let expected = [("A/B", "1 <A"), ("A/C", ""), ("A", ""), ("E", " q\"")];
        assert_eq!(seen, expected.map(|(path, text)| (path.to_owned(), text.to_owned())));
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = "<a>".repeat(1_000_000);
        let wide = format!("<r>{}</r>", "<a/>".repeat(ELEMENTS + 1));
        for bad in [
            "",
            "   ",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "not xml",
            "<!DOCTYPE a [<!ENTITY b \"bomb\">]><a>&b;</a>",
            "<a>&b;</a>",
            "<a><b>&#0;</b></a>",
            &deep,
            &wide,
            &format!("<a><b>{}</b></a>", "x".repeat(TEXT + 1)),
            &format!("<a><b>{}&amp;</b></a>", "\u{fc}".repeat(TEXT / 2)),
            &format!("<a><b><![CDATA[{}]]></b></a>", "x".repeat(TEXT + 1)),
            &format!("<a><{0}></{0}></a>", "x".repeat(PATH + 1)),
            &format!("<a><{0}><{0}/></{0}></a>", "x".repeat(PATH / 2)),
        ] {
            assert!(leaves(bad).is_err(), "{}", &bad[..bad.len().min(60)]);
        }
        assert!(walk(b"<a>\xff</a>", |_| {}).is_err());
    }

    proptest! {
        #[test]
        fn escaped_text_is_read_back(text in "[^\u{0}-\u{1f}\u{fffe}\u{ffff}]{0,40}[\t\n\r<&]{0,3}") {
            let document = format!("<r><k>{}</k></r>", escape(&text).unwrap());
            prop_assert_eq!(leaves(&document).unwrap().1, vec![("k".to_owned(), text)]);
        }

        #[test]
        fn no_document_makes_it_panic(document in "[<>&;/a-c#x0-9\"'! \\[\\]-]{0,80}") {
            drop(leaves(&document));
        }
    }
}
