//! Pages of text and pictures that a browser opens from a folder: one a language, with the same chapters.

use std::fmt::Write as _;

/// A language that the pages are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Korean,
}

impl Language {
    pub(super) const ALL: [Self; 2] = [Self::English, Self::Korean];

    /// Its short name by BCP 47.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Korean => "ko",
        }
    }

    /// What it calls itself.
    fn name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::Korean => "한국어",
        }
    }

    /// The file of its page.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::English => "index.html",
            Self::Korean => "ko.html",
        }
    }
}

/// A text in both languages.
#[derive(Clone, Debug)]
pub(super) struct Both {
    english: String,
    korean: String,
}

/// A text in both languages.
pub(super) fn both(english: impl Into<String>, korean: impl Into<String>) -> Both {
    Both {
        english: english.into(),
        korean: korean.into(),
    }
}

impl Both {
    fn get(&self, language: Language) -> &str {
        match language {
            Language::English => &self.english,
            Language::Korean => &self.korean,
        }
    }
}

/// A text that is the same in both, as numbers and prompts are.
pub(super) fn same(text: impl Into<String>) -> Both {
    let text = text.into();
    both(text.clone(), text)
}

/// A picture file of the page.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) file: String,
    /// Pixels it takes on the page.
    pub(super) shown: [usize; 2],
    /// Whether its pixels are to be seen as squares.
    pub(super) squares: bool,
}

/// A picture with what is said of it.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    /// The picture's file in each language; mostly the same.
    pub(super) image: [Image; 2],
    pub(super) caption: Both,
    /// The command that draws it.
    pub(super) command: Option<String>,
}

/// A part of a chapter.
pub(super) enum Block {
    Text(Both),
    /// An equation, a line of its own.
    Formula(String),
    Figures(Vec<Figure>),
    Table {
        head: Vec<Both>,
        rows: Vec<Vec<String>>,
    },
}

/// One idea of the lesson.
pub(super) struct Chapter {
    /// Its address on the page.
    pub(super) id: &'static str,
    pub(super) title: Both,
    pub(super) blocks: Vec<Block>,
}

/// The whole lesson.
pub(super) struct Page {
    pub(super) chapters: Vec<Chapter>,
    pub(super) model: String,
}

const STYLE: &str = "\
:root { color-scheme: light dark; }
body { max-width: 62rem; margin: 0 auto; padding: 1rem; font: 1rem/1.65 system-ui, sans-serif; }
header, footer { border-block: 1px solid #8885; padding: .5rem 0; }
h2 { margin-top: 3rem; }
p { max-width: 46rem; word-break: keep-all; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
figure { margin: 0; max-width: 100%; }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid #8885; }
figure img.squares { image-rendering: pixelated; }
figcaption { font-size: .85rem; line-height: 1.4; padding-top: .3rem; overflow-wrap: anywhere; }
code { font: .75rem/1.4 ui-monospace, monospace; }
p code { font-size: .9em; }
figcaption code { display: block; opacity: .75; }
.formula { font: italic 1.1rem/1.6 Georgia, serif; padding-left: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid #8885; }
";

/// Narrowest figure, in pixels: a command beside a small picture needs room.
const NARROWEST: usize = 96;

impl Page {
    /// The page in one language. The same chapters give the same bytes.
    pub(super) fn html(&self, language: Language) -> String {
        let title = both(
            "Latent diffusion, drawn by the model",
            "모델이 직접 그려 보이는 잠재 확산",
        );
        let mut out = format!(
            "<!doctype html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
            language.tag(),
            escaped(title.get(language))
        );
        self.head(&mut out, title.get(language), language);
        for chapter in &self.chapters {
            chapter.html(&mut out, language);
        }
        let made = both(
            format!(
                "Made by <code>latent demo</code> of latent {}.",
                env!("CARGO_PKG_VERSION")
            ),
            format!(
                "latent {}의 <code>latent demo</code>로 만들었습니다.",
                env!("CARGO_PKG_VERSION")
            ),
        );
        push(
            &mut out,
            format_args!(
                "<footer>{}</footer>\n</body>\n</html>\n",
                made.get(language)
            ),
        );
        out
    }

    fn head(&self, out: &mut String, title: &str, language: Language) {
        let others = Language::ALL.into_iter().filter(|other| *other != language);
        let links: Vec<String> = others
            .map(|other| {
                let (file, tag, name) = (other.file(), other.tag(), other.name());
                format!("<a href=\"{file}\" hreflang=\"{tag}\" lang=\"{tag}\">{name}</a>")
            })
            .collect();
        push(
            out,
            format_args!(
                "<header>{}</header>\n<h1>{}</h1>\n",
                links.join(" "),
                escaped(title)
            ),
        );
        let what = both(
            format!(
                "Every picture here was drawn by the model `{}`. Below each stands the command that draws it; the same \
                 command gives the same picture again, with any number of threads.",
                self.model
            ),
            format!(
                "이 페이지의 그림은 모두 한 모델(`{}`)이 그렸습니다. 그림 아래에는 그 그림을 그리는 명령이 있습니다. 같은 명령은 스레드 수가 \
                 몇이든 같은 그림을 다시 그립니다.",
                self.model
            ),
        );
        push(
            out,
            format_args!("<p>{}</p>\n<nav>\n<ol>\n", marked(what.get(language))),
        );
        for chapter in &self.chapters {
            let title = escaped(chapter.title.get(language));
            push(
                out,
                format_args!("<li><a href=\"#{}\">{title}</a></li>\n", chapter.id),
            );
        }
        out.push_str("</ol>\n</nav>\n");
    }
}

impl Chapter {
    fn html(&self, out: &mut String, language: Language) {
        let title = escaped(self.title.get(language));
        push(
            out,
            format_args!("<section id=\"{}\">\n<h2>{title}</h2>\n", self.id),
        );
        for block in &self.blocks {
            block.html(out, language);
        }
        out.push_str("</section>\n");
    }
}

impl Block {
    fn html(&self, out: &mut String, language: Language) {
        match self {
            Self::Text(text) => push(out, format_args!("<p>{}</p>\n", marked(text.get(language)))),
            Self::Formula(text) => push(
                out,
                format_args!("<p class=\"formula\">{}</p>\n", escaped(text)),
            ),
            Self::Figures(figures) => {
                out.push_str("<div class=\"row\">\n");
                for figure in figures {
                    figure.html(out, language);
                }
                out.push_str("</div>\n");
            }
            Self::Table { head, rows } => {
                let cell = |text: &str| format!("<td>{}</td>", escaped(text));
                let head: String = head
                    .iter()
                    .map(|text| format!("<th>{}</th>", escaped(text.get(language))))
                    .collect();
                push(
                    out,
                    format_args!("<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"),
                );
                for row in rows {
                    let cells: String = row.iter().map(|text| cell(text)).collect();
                    push(out, format_args!("<tr>{cells}</tr>\n"));
                }
                out.push_str("</tbody>\n</table>\n");
            }
        }
    }
}

impl Figure {
    fn html(&self, out: &mut String, language: Language) {
        let caption = self.caption.get(language);
        let image = &self.image[usize::from(language == Language::Korean)];
        let ([width, height], class) = (
            image.shown,
            if image.squares {
                " class=\"squares\""
            } else {
                ""
            },
        );
        push(
            out,
            format_args!(
                "<figure style=\"width:{}px\">\n<img src=\"{}\" width=\"{width}\" height=\"{height}\" alt=\"{}\"{class}>\n\
                 <figcaption>{}",
                width.max(NARROWEST),
                image.file,
                escaped(&caption.replace('`', "")),
                marked(caption)
            ),
        );
        if let Some(command) = &self.command {
            push(out, format_args!("\n<code>{}</code>", escaped(command)));
        }
        out.push_str("</figcaption>\n</figure>\n");
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = out.write_fmt(text);
}

/// The text as HTML shows it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(letter),
        }
    }
    out
}

/// [`escaped`], what stands between backticks as code.
fn marked(text: &str) -> String {
    let mut out = String::new();
    for (place, part) in escaped(text).split('`').enumerate() {
        match place % 2 {
            0 => out.push_str(part),
            _ => push(&mut out, format_args!("<code>{part}</code>")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_become_tags() {
        assert_eq!(escaped("a <b> & \"c\""), "a &lt;b&gt; &amp; &quot;c&quot;");
        assert_eq!(marked("see `x < y` here"), "see <code>x &lt; y</code> here");
    }
}
