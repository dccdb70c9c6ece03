//! Words that come and go during a run: `[from:to:when]`, `[to:when]`, `[from::when]`, and turns `[a|b]`.

use std::collections::BTreeSet;

/// Changes within changes that are followed; what lies deeper is text.
const DEPTH: usize = 64;

/// A prompt whose words change during a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    nodes: Vec<Node>,
    /// Why nothing of it is scheduled, where that may surprise.
    pub unread: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    /// One text up to a step, another after it.
    Change {
        before: Vec<Node>,
        after: Vec<Node>,
        when: When,
    },
    /// Texts that take turns, one a step.
    Turns(Vec<Vec<Node>>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// So many steps; `[a:b:10]`.
    Step(f64),
    /// A share of all steps; `[a:b:0.5]`.
    Share(f64),
}

/// The steps of a run, counted in calls of the network: samplers that call it twice a step have twice as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Steps of the pass.
    pub steps: usize,
    /// For a second pass the steps of the first. Its own steps count behind those, and shares of it are 1 to 2.
    pub first_pass: Option<usize>,
}

impl Clock {
    /// The one pass of a run.
    pub fn of(steps: usize) -> Self {
        Self {
            steps,
            first_pass: None,
        }
    }

    /// The last step before a change; below 1 there is none.
    fn step(&self, when: When) -> usize {
        let step = match when {
            When::Step(step) => step - self.first_pass.unwrap_or(0) as f64,
            When::Share(share) => {
                (share - f64::from(u8::from(self.first_pass.is_some()))) * self.steps as f64
            }
        };
        // Negative numbers become 0.
        (step as usize).min(self.steps)
    }
}

impl Schedule {
    /// Reads a prompt. Brackets that mean no change stay as they are, weights among them.
    ///
    /// Source: AUTOMATIC1111 stable-diffusion-webui, the documented cases of
    /// `get_learned_conditioning_prompt_schedules`. As there, a `|` or a last `\` that belongs to nothing leaves the whole
    /// prompt unread.
    pub fn read(text: &str) -> Self {
        let mut reader = Reader::default();
        let unread = reader.read(text).err();
        let nodes = match unread {
            Some(_) => vec![Node::Text(text.to_owned())],
            None => reader.nodes,
        };
        Self { nodes, unread }
    }

    /// The steps at whose end the words may change; the last is the last of all.
    pub fn stages(&self, clock: &Clock) -> Vec<usize> {
        let mut ends = BTreeSet::from([clock.steps]);
        gather_ends(&self.nodes, clock, &mut ends);
        ends.into_iter().collect()
    }

    /// The words at a step, counted from 1.
    pub fn text_at(&self, step: usize, clock: &Clock) -> String {
        let mut text = String::new();
        write(&self.nodes, step, clock, &mut text);
        text
    }
}

fn gather_ends(nodes: &[Node], clock: &Clock, ends: &mut BTreeSet<usize>) {
    for node in nodes {
        match node {
            Node::Text(_) => {}
            Node::Change {
                before,
                after,
                when,
            } => {
                let step = clock.step(*when);
                if step >= 1 {
                    ends.insert(step);
                }
                gather_ends(before, clock, ends);
                gather_ends(after, clock, ends);
            }
            Node::Turns(turns) => {
                ends.extend(1..=clock.steps);
                for turn in turns {
                    gather_ends(turn, clock, ends);
                }
            }
        }
    }
}

fn write(nodes: &[Node], step: usize, clock: &Clock, text: &mut String) {
    for node in nodes {
        match node {
            Node::Text(words) => text.push_str(words),
            Node::Change {
                before,
                after,
                when,
            } => {
                let now = if step <= clock.step(*when) {
                    before
                } else {
                    after
                };
                write(now, step, clock, text);
            }
            Node::Turns(turns) => {
                let now = (step.max(1) - 1) % turns.len();
                write(&turns[now], step, clock, text);
            }
        }
    }
}

/// Builds nodes bottom-up: brackets that turn out to mean nothing have put their text in its place already.
#[derive(Default)]
struct Reader {
    nodes: Vec<Node>,
    frames: Vec<Frame>,
}

/// A bracket that is open.
struct Frame {
    square: bool,
    /// Its place in the nodes.
    start: usize,
    /// Places of the colons and bars that are directly inside.
    colons: Vec<usize>,
    bars: Vec<usize>,
    /// It holds a bracket or a colon that belongs to nothing, so it cannot mean anything either.
    stray: bool,
    /// Changes within changes inside.
    depth: usize,
}

const BAR: &str = "a `|` stands outside of brackets as [a|b], so nothing of the prompt is scheduled; write it as \\|";
const BACKSLASH: &str =
    "a `\\` stands before nothing, so nothing of the prompt is scheduled; write it as \\\\";

impl Reader {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '(' | '[' => {
                    self.open(first == '[');
                    1
                }
                ')' | ']' => {
                    self.close(first == ']')?;
                    1
                }
                ':' => {
                    let at = self.push(":");
                    if let Some(frame) = self.frames.last_mut() {
                        frame.colons.push(at);
                    }
                    1
                }
                '|' => {
                    let at = self.push("|");
                    self.frames.last_mut().ok_or(BAR)?.bars.push(at);
                    1
                }
                '\\' => {
                    let escaped = rest[1..].chars().next().filter(|letter| *letter != '\n');
                    let length = 1 + escaped.ok_or(BACKSLASH)?.len_utf8();
                    self.push(&rest[..length]);
                    length
                }
                _ => {
                    let end = rest.find(['(', ')', '[', ']', ':', '|', '\\']);
                    let end = end.unwrap_or(rest.len());
                    self.push(&rest[..end]);
                    end
                }
            };
            rest = &rest[length..];
        }
        match self.frames.iter().all(|frame| frame.bars.is_empty()) {
            true => Ok(()),
            false => Err(BAR),
        }
    }

    fn push(&mut self, text: &str) -> usize {
        self.nodes.push(Node::Text(text.to_owned()));
        self.nodes.len() - 1
    }

    fn open(&mut self, square: bool) {
        let start = self.push(if square { "[" } else { "(" });
        self.frames.push(Frame {
            square,
            start,
            colons: Vec::new(),
            bars: Vec::new(),
            stray: false,
            depth: 0,
        });
    }

    fn close(&mut self, square: bool) -> Result<(), &'static str> {
        let bracket = if square { "]" } else { ")" };
        let Some(frame) = self.frames.pop_if(|frame| frame.square == square) else {
            self.push(bracket);
            self.stray();
            return Ok(());
        };
        let mut depth = frame.depth;
        let meaning = self.meaning(&frame).filter(|_| depth < DEPTH);
        let means = match meaning {
            Some(meaning) => {
                let inside = self.nodes.split_off(frame.start);
                self.nodes.push(meaning.of(inside, &frame));
                depth += 1;
                true
            }
            None => {
                self.push(bracket);
                frame.is_weight()
            }
        };
        if !means {
            if !frame.bars.is_empty() {
                return Err(BAR);
            }
            self.stray();
        }
        if let Some(around) = self.frames.last_mut() {
            around.depth = around.depth.max(depth);
        }
        Ok(())
    }

    fn stray(&mut self) {
        if let Some(around) = self.frames.last_mut() {
            around.stray = true;
        }
    }

    /// Whether a closed bracket means a change or turns.
    fn meaning(&self, frame: &Frame) -> Option<Meaning> {
        if !frame.square || frame.stray {
            return None;
        }
        match (&frame.colons[..], &frame.bars[..]) {
            ([], [_, ..]) => Some(Meaning::Turns),
            ([last] | [_, last], []) => Some(Meaning::Change(self.when(*last)?)),
            _ => None,
        }
    }

    /// The number behind a colon, up to the end.
    fn when(&self, colon: usize) -> Option<When> {
        let mut number = String::new();
        for node in &self.nodes[colon + 1..] {
            match node {
                Node::Text(text) => number.push_str(text),
                Node::Change { .. } | Node::Turns(_) => return None,
            }
        }
        let number = number.trim();
        let of_numbers = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
        let value: f64 = number
            .bytes()
            .all(of_numbers)
            .then(|| number.parse().ok())??;
        Some(match number.contains('.') {
            true => When::Share(value),
            false => When::Step(value),
        })
    }
}

/// What a bracket is.
#[derive(Clone, Copy)]
enum Meaning {
    Change(When),
    Turns,
}

impl Meaning {
    /// The node of what a bracket holds, itself the first of it.
    fn of(self, inside: Vec<Node>, frame: &Frame) -> Node {
        let marks = frame.colons.iter().chain(&frame.bars);
        let mut marks = marks.map(|place| place - frame.start).peekable();
        let mut texts = vec![Vec::new()];
        for (place, node) in inside.into_iter().enumerate().skip(1) {
            if marks.next_if_eq(&place).is_some() {
                texts.push(Vec::new());
            } else if let Some(text) = texts.last_mut() {
                text.push(node);
            }
        }
        let Self::Change(when) = self else {
            return Node::Turns(texts);
        };
        texts.pop(); // the number
        let after = texts.pop().unwrap_or_default();
        Node::Change {
            before: texts.pop().unwrap_or_default(),
            after,
            when,
        }
    }
}

impl Frame {
    /// Whether the brackets may be a weight, which is read later: `(a)`, `(a:1.2)`, `[a]`.
    fn is_weight(&self) -> bool {
        let most = if self.square { 0 } else { 1 };
        !self.stray && self.bars.is_empty() && self.colons.len() <= most
    }
}
