//! A Rust file as far as the architecture tests must understand it: code without comments and strings.

use std::fs;
use std::path::Path;

/// A source file, as written and with comments, strings and characters blanked out.
pub(crate) struct Source {
    /// Path below the workspace, with `/`.
    pub(crate) path: String,
    text: String,
    code: String,
}

/// A function found in a file.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

impl Source {
    pub(crate) fn read(root: &Path, path: &Path) -> Self {
        let text =
            fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let below = path.strip_prefix(root).expect("a file of the workspace");
        let code = blank(&text);
        Self {
            path: below.to_string_lossy().replace('\\', "/"),
            text,
            code,
        }
    }

    pub(crate) fn line_count(&self) -> usize {
        self.text.lines().count()
    }

    /// `path:line: text` of the code lines that contain `part`, not as the end of a longer word.
    pub(crate) fn lines_with(&self, part: &str) -> Vec<String> {
        self.matching(&self.code, |line| {
            line.match_indices(part)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
    }

    /// The same for a whole word.
    pub(crate) fn lines_with_word(&self, word: &str) -> Vec<String> {
        self.matching(&self.code, |line| has_word(line, word))
    }

    /// The same over everything, comments and strings too.
    pub(crate) fn raw_lines_with(&self, part: &str) -> Vec<String> {
        self.matching(&self.text, |line| line.contains(part))
    }

    /// `unsafe {` blocks and `unsafe impl`s with no `SAFETY:` on the line or in the five above.
    pub(crate) fn unsafe_blocks_without_reason(&self) -> Vec<String> {
        let written: Vec<&str> = self.text.lines().collect();
        let mut offences = Vec::new();
        for (index, line) in self.code.lines().enumerate() {
            let opens = line.contains("unsafe {") || line.contains("unsafe impl");
            let above = &written[index.saturating_sub(5)..=index];
            if opens && !above.iter().any(|line| line.contains("SAFETY:")) {
                offences.push(format!(
                    "{}:{}: {}",
                    self.path,
                    index + 1,
                    written[index].trim()
                ));
            }
        }
        offences
    }

    fn matching(&self, text: &str, test: impl Fn(&str) -> bool) -> Vec<String> {
        let lines = text.lines().enumerate().filter(|(_, line)| test(line));
        lines
            .map(|(index, line)| format!("{}:{}: {}", self.path, index + 1, line.trim()))
            .collect()
    }
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|found| found == word)
}

/// Every function of the file with its length, from `fn` to the closing brace.
pub(crate) fn functions(source: &Source) -> Vec<Function> {
    let code = source.code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in source.code.match_indices("fn ") {
        let starts_word =
            at == 0 || !(code[at - 1].is_ascii_alphanumeric() || code[at - 1] == b'_');
        let name: String = source.code[at + 3..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if !starts_word || name.is_empty() {
            continue;
        }
        let Some(end) = body_end(&code[at..]) else {
            continue;
        };
        let line = 1 + source.code[..at].matches('\n').count();
        let lines = 1 + source.code[at..at + end].matches('\n').count();
        found.push(Function { name, line, lines });
    }
    found
}

/// Offset of the brace that closes the function's body; none for a declaration that ends in `;`.
fn body_end(code: &[u8]) -> Option<usize> {
    let (mut depth, mut brackets) = (0_usize, 0_usize);
    for (at, byte) in code.iter().enumerate() {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets = brackets.saturating_sub(1),
            b';' if depth == 0 && brackets == 0 => return None,
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The text with comments, strings and character literals replaced by spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(
                chars[at..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => until(chars, at, |c, i| c[i] == '\n'),
        '/' if next == Some('*') => 1 + until(chars, at + 3, |c, i| c[i] == '/' && c[i - 1] == '*'),
        'r' if !is_word_before(chars, at) => raw_string_end(chars, at).unwrap_or(at),
        '"' => string_end(chars, at),
        '\'' => character_end(chars, at),
        _ => at,
    }
}

fn is_word_before(chars: &[char], at: usize) -> bool {
    // `br"..."` is a raw string too.
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_') && chars[at - 1] != 'b'
}

fn until(chars: &[char], from: usize, stop: impl Fn(&[char], usize) -> bool) -> usize {
    (from..chars.len())
        .find(|i| stop(chars, *i))
        .unwrap_or(chars.len())
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return None;
    }
    let closes = |i: usize| {
        chars[i] == '"'
            && chars[i + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
    };
    let end = (at + 2 + hashes..chars.len()).find(|i| closes(*i))?;
    Some(end + 1 + hashes)
}

/// A character literal; a lifetime such as `'a` is left alone.
fn character_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => (1 + until(chars, at + 3, |c, i| c[i] == '\'')).min(chars.len()),
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}
