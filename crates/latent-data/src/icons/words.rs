//! Small grammar: articles and plurals of English names, particles of Korean ones.

use super::tables::Concept;

/// Nouns without an article or a plural.
const MASS: &[&str] = &[
    "bread",
    "rice",
    "fire",
    "bacon",
    "cheese",
    "butter",
    "salt",
    "honey",
    "garlic",
    "ice",
    "money",
    "sushi",
    "tofu",
    "spaghetti",
    "sake",
    "chocolate",
    "tea",
    "beer",
    "wine",
    "coffee",
    "fog",
    "rock",
    "wood",
    "thread",
    "yarn",
    "dna",
    "soap",
    "luggage",
    "curry",
    "popcorn",
    "broccoli",
    "ginger",
];

/// Words by which a name says a colour already.
const COLOR_WORDS: &[&str] = &[
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "gray", "grey", "black",
    "white", "golden", "rainbow", "color", "colour",
];

/// Colours that a name may begin with.
const LEADING_EN: &[&str] = &[
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
];
const LEADING_KO: &[&str] = &[
    "빨간",
    "빨간색",
    "주황",
    "주황색",
    "노란",
    "노란색",
    "초록",
    "초록색",
    "녹색",
    "파란",
    "파란색",
    "보라",
    "보라색",
    "분홍",
    "분홍색",
    "갈색",
    "검은",
    "검은색",
    "흰",
    "흰색",
    "하얀",
];

const IRREGULAR: &[(&str, &str)] = &[
    ("mouse", "mice"),
    ("fish", "fish"),
    ("sheep", "sheep"),
    ("wolf", "wolves"),
    ("leaf", "leaves"),
    ("knife", "knives"),
    ("man", "men"),
    ("woman", "women"),
    ("child", "children"),
    ("goose", "geese"),
    ("ox", "oxen"),
    ("tooth", "teeth"),
    ("deer", "deer"),
    ("bison", "bison"),
    ("snowman", "snowmen"),
    ("squid", "squid"),
    ("shrimp", "shrimp"),
    ("scarf", "scarves"),
];

pub(super) fn starts_with_any(text: &str, beginnings: &[&str]) -> bool {
    beginnings
        .iter()
        .any(|beginning| text.starts_with(beginning))
}

pub(super) fn ends_with_any(text: &str, endings: &[&str]) -> bool {
    endings.iter().any(|ending| text.ends_with(ending))
}

pub(super) fn contains_any(text: &str, parts: &[&str]) -> bool {
    parts.iter().any(|part| text.contains(part))
}

/// The last word of a name.
fn noun(name: &str) -> &str {
    name.rsplit(' ').next().unwrap_or(name)
}

pub(super) fn is_mass(name: &str) -> bool {
    MASS.contains(&noun(name))
}

/// Whether a word of the name is a colour.
pub(super) fn names_a_color(name: &str) -> bool {
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.any(|word| COLOR_WORDS.contains(&word))
}

/// The name with its article, if it takes one.
pub(super) fn with_article(name: &str) -> String {
    let proper = starts_with_any(name, &["santa", "mrs", "mx", "mount", "tokyo", "statue"]);
    let counted = starts_with_any(name, &["the ", "two ", "three "]);
    let last = noun(name);
    let plural = last.ends_with('s') && !ends_with_any(last, &["ss", "us", "is"]);
    if proper || counted || plural || is_mass(name) {
        return name.to_string();
    }
    let vowel = starts_with_any(name, &["a", "e", "i", "o", "u"])
        && !starts_with_any(name, &["uni", "one", "u-", "eu", "ufo", "ukulele"]);
    if vowel || starts_with_any(name, &["hour", "x-ray", "honest"]) {
        format!("an {name}")
    } else {
        format!("a {name}")
    }
}

/// The name for more than one.
pub(super) fn plural(name: &str) -> String {
    let last = noun(name);
    let before = &name[..name.len() - last.len()];
    if let Some((_, many)) = IRREGULAR.iter().find(|(one, _)| *one == last) {
        return format!("{before}{many}");
    }
    let stem = last.strip_suffix('y');
    let stem = stem.filter(|stem| {
        let before = stem.chars().next_back();
        before.is_some_and(|letter| !"aeiou".contains(letter))
    });
    let hissing = [
        "s", "x", "z", "ch", "sh", "potato", "tomato", "mango", "volcano",
    ];
    match stem {
        Some(stem) => format!("{before}{stem}ies"),
        None if ends_with_any(last, &hissing) => format!("{name}es"),
        None => format!("{name}s"),
    }
}

/// The Korean "and" after a word: by whether its last syllable ends in a consonant.
pub(super) fn and_ko(word: &str) -> &'static str {
    let last = word.chars().next_back().map_or(0, u32::from);
    let syllable = last
        .checked_sub(0xac00)
        .filter(|syllable| *syllable < 11172);
    match syllable {
        Some(syllable) if syllable % 28 != 0 => "과",
        _ => "와",
    }
}

/// A concept's names without a colour in front, English and Korean; `None` if a colour is part of the name.
pub(super) fn bare_names(concept: &Concept) -> Option<(&'static str, &'static str)> {
    let (en, ko) = (concept.name_en, concept.name_ko);
    match without_leading(en, LEADING_EN) {
        Some(bare) => Some((bare, without_leading(ko, LEADING_KO)?)),
        None => (!names_a_color(en)).then_some((en, ko)),
    }
}

fn without_leading(name: &'static str, colors: &[&str]) -> Option<&'static str> {
    let (first, rest) = name.split_once(' ')?;
    (colors.contains(&first) && !rest.is_empty()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_follow_the_sound() {
        for (name, expected) in [
            ("red apple", "a red apple"),
            ("apple", "an apple"),
            ("unicorn", "a unicorn"),
            ("hourglass done", "an hourglass done"),
            ("glasses", "glasses"),
            ("bus", "a bus"),
            ("santa claus", "santa claus"),
            ("loaf of bread", "loaf of bread"),
        ] {
            assert_eq!(with_article(name), expected);
        }
    }

    #[test]
    fn plurals_know_the_irregular_ones() {
        for (name, expected) in [
            ("red mouse", "red mice"),
            ("strawberry", "strawberries"),
            ("donkey", "donkeys"),
            ("lunch box", "lunch boxes"),
            ("potato", "potatoes"),
            ("video game", "video games"),
        ] {
            assert_eq!(plural(name), expected);
        }
    }

    #[test]
    fn the_korean_particle_follows_the_final_consonant() {
        assert_eq!(
            (and_ko("사과"), and_ko("곰"), and_ko("TV")),
            ("와", "과", "와")
        );
    }

    #[test]
    fn colours_are_whole_words_of_a_name() {
        assert!(names_a_color("red-haired") && names_a_color("black cat"));
        assert!(!names_a_color("redwood") && !names_a_color("piñata"));
    }
}
