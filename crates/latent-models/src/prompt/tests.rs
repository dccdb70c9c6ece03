//! Grammar against the cases that its programs document.

use super::*;

fn weighted(grammar: Grammar, text: &str) -> Vec<(String, f64)> {
    let parts = grammar.parts(text).into_iter();
    parts
        .map(|part| match part {
            Part::Text { text, weight } => (text, weight),
            Part::Break => ("BREAK".to_owned(), -1.0),
        })
        .collect()
}

fn assert_parts(grammar: Grammar, text: &str, expected: &[(&str, f64)]) {
    let found = weighted(grammar, text);
    let same = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-12 * b.1.abs().max(1.0));
    assert!(same, "{text:?}: {found:?} is not {expected:?}");
}

/// The first eight are those in the documentation of A1111's `parse_prompt_attention`.
#[test]
fn weights_are_read_as_a1111_documents_them() {
    let cases: &[(&str, &[(&str, f64)])] = &[
        ("normal text", &[("normal text", 1.0)]),
        (
            "an (important) word",
            &[("an ", 1.0), ("important", 1.1), (" word", 1.0)],
        ),
        ("(unbalanced", &[("unbalanced", 1.1)]),
        ("\\(literal\\]", &[("(literal]", 1.0)]),
        ("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            &[
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        ("[dim]", &[("dim", 1.0 / 1.1)]),
        ("(x:3.12)", &[("x", 3.12)]),
        // A number must stand directly before the bracket, spaces aside; one without brackets is text.
        ("(x : 1.2 )", &[("x ", 1.2)]),
        ("(x:1.2 y)", &[("x:1.2 y", 1.1)]),
        ("x:1.2)", &[("x:1.2)", 1.0)]),
        ("(x:1.2.3)", &[("x:1.2.3", 1.1)]),
        ("(x:-0.5)", &[("x", -0.5)]),
        ("[x:0.5]", &[("x:0.5", 1.0 / 1.1)]),
        ("a) b]", &[("a) b]", 1.0)]),
        ("a \\\\ \\b", &[("a \\ b", 1.0)]),
        // Round and square brackets may cross.
        ("(a [b) c]", &[("a ", 1.1), ("b", 1.0), (" c", 1.0 / 1.1)]),
        ("", &[("", 1.0)]),
        ("()", &[("", 1.0)]),
    ];
    for (text, expected) in cases {
        assert_parts(Grammar::A1111, text, expected);
    }
}

#[test]
fn break_ends_a_part_wherever_it_stands_by_itself() {
    let cut = ("BREAK", -1.0);
    assert_parts(
        Grammar::A1111,
        "a fox BREAK\n in snow",
        &[("a fox", 1.0), cut, ("in snow", 1.0)],
    );
    assert_parts(
        Grammar::A1111,
        "(a BREAK b:1.3)",
        &[("a", 1.3), cut, ("b", 1.3)],
    );
    assert_parts(
        Grammar::A1111,
        "BREAKS and a_BREAK",
        &[("BREAKS and a_BREAK", 1.0)],
    );
    assert_parts(Grammar::A1111, "BREAK BREAK", &[cut, cut]);
    assert_parts(Grammar::ComfyUi, "a BREAK b", &[("a BREAK b", 1.0)]);
}

/// The first ten are those in the documentation of ComfyUI's `token_weights` and `parse_parentheses`.
#[test]
fn weights_are_read_as_comfyui_documents_them() {
    let cases: &[(&str, &[(&str, f64)])] = &[
        ("(foo)", &[("foo", 1.1)]),
        ("(foo)(bar)", &[("foo", 1.1), ("bar", 1.1)]),
        ("(foo:2.0)", &[("foo", 2.0)]),
        ("((foo))", &[("foo", 1.21)]),
        ("((foo):1.1)", &[("foo", 1.1 * 1.1)]),
        ("((foo:1.1))", &[("foo", 1.1)]),
        ("(foo:0.0)", &[("foo", 0.0)]),
        ("((foo:1.0):0.0)", &[("foo", 1.0)]),
        (
            "foo ((((lol (cat:666) attack:100)))) baz",
            &[
                ("foo ", 1.0),
                ("lol ", 100.0),
                ("cat", 666.0),
                (" attack", 100.0),
                (" baz", 1.0),
            ],
        ),
        (
            "foo ((((lol (cat:666) attack):100))) baz",
            &[
                ("foo ", 1.0),
                ("lol ", 110.0),
                ("cat", 666.0),
                (" attack", 110.0),
                (" baz", 1.0),
            ],
        ),
        ("\\(foo\\)(bar)", &[("(foo)", 1.0), ("bar", 1.1)]),
        // Square brackets mean nothing, and neither does a bracket without its partner.
        ("[dim] (open", &[("[dim] ", 1.0), ("(open", 1.0)]),
        ("a) (b:1.2)", &[("a) (b:1.2)", 1.0)]),
        ("(a:b)", &[("a:b", 1.1)]),
        ("(:1.2)", &[(":1.2", 1.1)]),
    ];
    for (text, expected) in cases {
        assert_parts(Grammar::ComfyUi, text, expected);
    }
}

fn stages(text: &str, clock: Clock) -> Vec<(usize, String)> {
    let schedule = Schedule::read(text);
    let ends = schedule.stages(&clock).into_iter();
    ends.map(|end| (end, schedule.text_at(end, &clock)))
        .collect()
}

fn assert_stages(text: &str, clock: Clock, expected: &[(usize, &str)]) {
    let found = stages(text, clock);
    let found: Vec<(usize, &str)> = found.iter().map(|(end, text)| (*end, &text[..])).collect();
    assert_eq!(found, expected, "{text:?}");
}

/// All but the last five are those in the documentation of A1111's `get_learned_conditioning_prompt_schedules`.
#[test]
fn changes_are_read_as_a1111_documents_them() {
    let cases: &[(&str, &[(usize, &str)])] = &[
        ("test", &[(10, "test")]),
        ("a [b:3]", &[(3, "a "), (10, "a b")]),
        ("a [b: 3]", &[(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", &[(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", &[(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", &[(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", &[(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", &[(10, "a [unbalanced")]),
        ("a [b:.5] c", &[(5, "a  c"), (10, "a b c")]),
        ("((a][:b:c [d:3]", &[(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[b:0]", &[(10, "b")]),
        ("[b::-1]", &[(10, "")]),
        ("[a::4] b", &[(4, "a b"), (10, " b")]),
        ("[a:b:1e1]", &[(10, "a")]),
        ("[a:b:c]", &[(10, "[a:b:c]")]),
    ];
    for (text, expected) in cases {
        assert_stages(text, Clock::of(10), expected);
    }
}

/// The comment that opens A1111's parser, of 100 steps.
#[test]
fn a_landscape_changes_five_times() {
    assert_stages(
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6][ in \
         background:0.25] [shoddy:masterful:0.5]",
        Clock::of(100),
        &[
            (
                25,
                "fantasy landscape with a mountain and an oak in foreground shoddy",
            ),
            (
                50,
                "fantasy landscape with a lake and an oak in foreground in background shoddy",
            ),
            (
                60,
                "fantasy landscape with a lake and an oak in foreground in background masterful",
            ),
            (
                75,
                "fantasy landscape with a lake and an oak in background masterful",
            ),
            (
                100,
                "fantasy landscape with a lake and a christmas tree in background masterful",
            ),
        ],
    );
}

#[test]
fn turns_are_taken_one_a_step() {
    let turns = |text: &str| -> Vec<String> {
        let stages = stages(text, Clock::of(6)).into_iter();
        stages.map(|(_, text)| text).collect()
    };
    assert_eq!(
        turns("[fe|]male"),
        ["female", "male", "female", "male", "female", "male"]
    );
    assert_eq!(
        turns("[fe|||]male"),
        ["female", "male", "male", "male", "female", "male"]
    );
    assert_eq!(
        turns("[a|(b:1.1)]")[..3],
        ["a", "(b:1.1)", "a"].map(str::to_owned)
    );
    assert_eq!(turns("[[a|b]:c:2]"), ["a", "b", "c", "c", "c", "c"]);
}

#[test]
fn a_second_pass_counts_behind_the_first() {
    let second = Clock {
        steps: 10,
        first_pass: Some(10),
    };
    assert_stages("a [b:.5] c", second, &[(10, "a b c")]);
    assert_stages("a [b:1.5] c", second, &[(5, "a  c"), (10, "a b c")]);
    assert_stages("a [b:13] c", second, &[(3, "a  c"), (10, "a b c")]);
    // The first pass does not reach what is said of the second.
    assert_stages("a [b:1.5] c", Clock::of(10), &[(10, "a  c")]);
}

#[test]
fn a_stray_bar_leaves_the_prompt_unread_and_says_so() {
    for text in ["a | b [c:d:3]", "(a|b) [c:d:3]", "[a:b|c] [c:d:3]", "[a|b"] {
        let schedule = Schedule::read(text);
        assert!(
            schedule.unread.is_some_and(|why| why.contains("\\|")),
            "{text}"
        );
        assert_eq!(schedule.text_at(9, &Clock::of(10)), text);
    }
    let schedule = Schedule::read("a \\| b [c:d:3]");
    assert_eq!(schedule.unread, None);
    assert_eq!(schedule.text_at(9, &Clock::of(10)), "a \\| b d");
    assert!(Schedule::read("[c:d:3] \\").unread.is_some());
}

#[test]
fn prompts_are_split_at_and_with_their_shares() {
    let split = |text: &str| -> Vec<(String, f64)> {
        let prompts = split_prompts(text).into_iter();
        prompts.map(|prompt| (prompt.text, prompt.share)).collect()
    };
    let one = |text: &str, share: f64| (text.to_owned(), share);
    assert_eq!(
        split("a fox AND snow :0.7 "),
        [one("a fox", 1.0), one(" snow", 0.7)]
    );
    assert_eq!(
        split("a:1.5AND b : -.5 AND c:2."),
        [one("a:1.5AND b", -0.5), one(" c", 2.0)]
    );
    assert_eq!(
        split("(a:1.2) AND\nSAND"),
        [one("(a:1.2)", 1.0), one("\nSAND", 1.0)]
    );
    assert_eq!(split(""), [one("", 1.0)]);
    assert_eq!(split("a AND"), [one("a", 1.0), one("", 1.0)]);
    assert_eq!(split("a :1e3"), [one("a :1e3", 1.0)]);
}

/// Deep nesting, long runs of one mark: none of it may take long or end the program.
#[test]
fn hundreds_of_thousands_of_marks_are_read_at_once() {
    let start = std::time::Instant::now();
    let mut texts: Vec<String> = [
        "(", "[", ")", "]", ":", "|", "\\", "[a:", "(a", "[[a|b]:", ":1.2)", "AND ",
    ]
    .iter()
    .map(|mark| mark.repeat(100_000))
    .collect();
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("[a:", ":3]"),
        ("(a [", "] b:1.1)"),
        ("[a|", "]"),
    ] {
        texts.push(open.repeat(50_000) + &close.repeat(50_000));
    }
    for text in &texts {
        let schedule = Schedule::read(text);
        let clock = Clock::of(20);
        let last = schedule.stages(&clock)[0];
        assert!(schedule.text_at(last, &clock).len() <= text.len());
        for grammar in [Grammar::A1111, Grammar::ComfyUi] {
            assert!(!grammar.parts(text).is_empty());
        }
        assert!(!split_prompts(text).is_empty());
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
