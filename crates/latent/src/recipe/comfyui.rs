//! ComfyUI's graph of nodes, `{"3": {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["4", 0], …}}, …}`,
//! followed from the picture that is saved back to words, model and noise.
//!
//! Source of the nodes' names and inputs: ComfyUI's `nodes.py` and `comfy_extras`.

use std::collections::BTreeMap;

use latent_sampling::guidance::{Method, Thresholding};
use latent_sampling::{find, find_schedule};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{NamedLora, NamedModel, Recipe, Tool, bare_name};

/// Links that are followed one after another; a graph that goes on is a ring.
const LONGEST: usize = 64;

/// ComfyUI's name of a schedule that means another one elsewhere.
const BETA: (&str, &str) = ("beta", "beta_timesteps");

/// Samplers that have CFG++ behind their names.
const PLUS_PLUS: &[&str] = &["euler", "euler_ancestral"];

/// Nodes that draw.
const SAMPLERS: &[&str] = &[
    "KSampler",
    "KSamplerAdvanced",
    "SamplerCustom",
    "SamplerCustomAdvanced",
];

/// One node.
#[derive(Deserialize)]
struct Node {
    class_type: String,
    #[serde(default)]
    inputs: Map<String, Value>,
}

/// All nodes by their numbers.
struct Graph(BTreeMap<String, Node>);

/// The recipe of a graph.
pub(super) fn read(json: &str) -> Result<Recipe, String> {
    let graph: BTreeMap<String, Value> = serde_json::from_str(&without_nan(json))
        .map_err(|error| format!("it holds a graph of ComfyUI that is broken: {error}"))?;
    // What is no node, such as a note of another tool, is nothing to follow.
    let nodes = graph
        .into_iter()
        .filter_map(|(number, node)| Some((number, serde_json::from_value(node).ok()?)));
    let graph = Graph(nodes.collect());
    let sampler = graph.drawing_node().ok_or_else(|| {
        format!(
            "it holds a graph of ComfyUI without a node that draws; {} are known",
            SAMPLERS.join(", ")
        )
    })?;
    let mut walk = Walk {
        graph: &graph,
        recipe: Recipe::new(Tool::ComfyUi),
    };
    walk.draws(sampler);
    walk.named_vae();
    Ok(walk.recipe)
}

/// Python writes `NaN` and infinities where JSON has no word; a node's cache mark is one. They become `null`.
fn without_nan(json: &str) -> String {
    let (mut out, mut rest, mut quoted) = (String::with_capacity(json.len()), json, false);
    while let Some(letter) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"]
            .iter()
            .find(|word| !quoted && rest.starts_with(**word));
        if let Some(word) = word {
            out.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        let mut length = letter.len_utf8();
        match letter {
            '"' => quoted = !quoted,
            // The letter behind it is none of JSON's own.
            '\\' if quoted => length += rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

impl Graph {
    /// The node that an input leads to.
    fn behind(&self, node: &Node, input: &str) -> Option<&Node> {
        let (number, _) = link(node.inputs.get(input)?)?;
        self.0.get(number)
    }

    /// The node whose picture is saved, and before it the one that begins with noise.
    fn drawing_node(&self) -> Option<&Node> {
        let is_sampler = |node: &&Node| SAMPLERS.contains(&node.class_type.as_str());
        let saves = self.0.values().filter(|node| {
            node.class_type.contains("SaveImage") || node.class_type == "PreviewImage"
        });
        let mut saved = saves.filter_map(|node| self.back_from(node, is_sampler));
        let last = saved.next().or_else(|| self.0.values().find(is_sampler))?;
        let mut first = last;
        for _ in 0..LONGEST {
            match self.back_from_input(first, "latent_image", is_sampler) {
                Some(before) => first = before,
                None => break,
            }
        }
        Some(first)
    }

    /// The nearest node of a kind that a picture or latents came from.
    fn back_from<'g>(
        &'g self,
        node: &'g Node,
        is_wanted: impl Fn(&&Node) -> bool,
    ) -> Option<&'g Node> {
        let ways = [
            "images",
            "image",
            "samples",
            "pixels",
            "latent",
            "latent_image",
        ];
        let mut node = node;
        for _ in 0..LONGEST {
            node = ways.iter().find_map(|way| self.behind(node, way))?;
            if is_wanted(&node) {
                return Some(node);
            }
        }
        None
    }

    fn back_from_input<'g>(
        &'g self,
        node: &'g Node,
        input: &str,
        is_wanted: impl Fn(&&Node) -> bool,
    ) -> Option<&'g Node> {
        let before = self.behind(node, input)?;
        if is_wanted(&before) {
            return Some(before);
        }
        self.back_from(before, is_wanted)
    }

    /// A value, found through nodes that hold nothing else.
    fn value<'g>(&'g self, node: &'g Node, input: &str) -> Option<&'g Value> {
        let mut value = node.inputs.get(input)?;
        for _ in 0..LONGEST {
            let Some((number, _)) = link(value) else {
                return Some(value);
            };
            let inputs = &self.0.get(number)?.inputs;
            let names = [
                "value",
                "text",
                "string",
                "seed",
                "noise_seed",
                "int",
                "float",
                "number",
            ];
            value = names.iter().find_map(|name| inputs.get(*name))?;
        }
        None
    }

    fn text(&self, node: &Node, input: &str) -> Option<String> {
        Some(self.value(node, input)?.as_str()?.to_owned())
    }

    fn number(&self, node: &Node, input: &str) -> Option<f64> {
        let value = self.value(node, input)?;
        value
            .as_f64()
            .or_else(|| value.as_str()?.trim().parse().ok())
    }

    fn whole(&self, node: &Node, input: &str) -> Option<u64> {
        let value = self.value(node, input)?;
        value
            .as_u64()
            .or_else(|| value.as_str()?.trim().parse().ok())
    }
}

/// `["4", 0]`: a node's number and which of its results.
fn link(value: &Value) -> Option<(&str, u64)> {
    match value.as_array()?.as_slice() {
        [Value::String(number), slot] => Some((number, slot.as_u64()?)),
        _ => None,
    }
}

/// Follows a graph, and fills a recipe on the way.
struct Walk<'g> {
    graph: &'g Graph,
    recipe: Recipe,
}

impl<'g> Walk<'g> {
    /// A node that draws, and all that leads to it.
    fn draws(&mut self, node: &'g Node) {
        let graph = self.graph;
        let custom = node.class_type.starts_with("SamplerCustom");
        let guider = graph.behind(node, "guider").unwrap_or(node);
        let noise = graph.behind(node, "noise").unwrap_or(node);
        let seed = graph
            .whole(noise, "seed")
            .or_else(|| graph.whole(noise, "noise_seed"));
        self.recipe.request.seeds.extend(seed);
        let cfg = graph.number(guider, "cfg").or_else(|| {
            // A guider without a strength is one without words to go away from.
            (guider.class_type == "BasicGuider").then_some(1.0)
        });
        self.recipe.request.guidance = cfg.map(|cfg| cfg as f32);
        let schedule = if custom {
            let sampler = graph.behind(node, "sampler");
            self.sampler(sampler.and_then(|sampler| graph.text(sampler, "sampler_name")));
            graph.behind(node, "sigmas").unwrap_or(node)
        } else {
            self.sampler(graph.text(node, "sampler_name"));
            node
        };
        self.schedule(schedule);
        self.model(guider);
        for (input, wanted) in [
            ("positive", true),
            ("conditioning", true),
            ("negative", false),
        ] {
            if let Some(words) = graph.behind(guider, input) {
                self.words(words, wanted);
            }
        }
        self.latents(node, schedule);
        self.recipe.request.steps = graph.whole(schedule, "steps").map(|steps| steps as usize);
        if node.class_type == "KSamplerAdvanced" {
            self.part_of_the_steps(node);
        }
        let others = graph
            .0
            .values()
            .filter(|other| SAMPLERS.contains(&other.class_type.as_str()));
        if others.count() > 1 {
            self.recipe
                .note("what the graph draws after its first sampler; only that one is drawn here");
        }
    }

    fn sampler(&mut self, name: Option<String>) {
        let plus_plus = name.as_ref().and_then(|name| name.strip_suffix("_cfg_pp"));
        if let Some(base) = plus_plus.filter(|base| PLUS_PLUS.contains(base)) {
            self.recipe.request.sampler = Some(base.to_owned());
            self.recipe.request.guidance_method = Method::CfgPlusPlus;
            return;
        }
        match name {
            Some(name) if find(&name).is_ok() => self.recipe.request.sampler = Some(name),
            Some(name) => self.recipe.wants(
                format!("the sampler `{name}`, which is not known"),
                "sampler",
            ),
            None => self
                .recipe
                .wants("its sampler, which the graph does not name", "sampler"),
        }
    }

    /// The schedule of a node that has one by name, or is one.
    fn schedule(&mut self, node: &Node) {
        let name = self.graph.text(node, "scheduler").unwrap_or_else(|| {
            let name = node.class_type.trim_end_matches("Scheduler");
            name.to_lowercase()
        });
        let name = if name == BETA.0 {
            BETA.1.to_owned()
        } else {
            name
        };
        let sampler = self
            .recipe
            .request
            .sampler
            .as_deref()
            .and_then(|name| find(name).ok());
        match (find_schedule(&name), sampler) {
            (Ok(schedule), Some(sampler)) if schedule.fits(sampler) => {
                self.recipe.request.schedule = Some(schedule.name.to_owned());
            }
            (Ok(schedule), Some(sampler)) => self.recipe.note(format!(
                "the schedule `{}`, on which `{}` does not walk here",
                schedule.name, sampler.name
            )),
            (Ok(schedule), None) => self.recipe.request.schedule = Some(schedule.name.to_owned()),
            (Err(_), _) => self.recipe.wants(
                format!("the schedule `{name}`, which is not known"),
                "schedule",
            ),
        }
    }

    /// The loader, and on the way what changes the model.
    fn model(&mut self, node: &'g Node) {
        let mut node = node;
        let mut loras = Vec::new();
        for _ in 0..LONGEST {
            let Some(before) = self.graph.behind(node, "model") else {
                break;
            };
            node = before;
            match node.class_type.as_str() {
                "LoraLoader" | "LoraLoaderModelOnly" => loras.extend(self.lora(node)),
                "RescaleCFG" => {
                    let share = self.graph.number(node, "multiplier").unwrap_or(0.0);
                    self.recipe.request.guidance_rescale = share as f32;
                }
                "PerturbedAttentionGuidance" => {
                    let scale = self.graph.number(node, "scale").unwrap_or(3.0);
                    self.recipe.request = std::mem::take(&mut self.recipe.request).pag(scale);
                }
                "DynamicThresholdingSimple" => {
                    let number = |input, usual| self.graph.number(node, input).unwrap_or(usual);
                    self.recipe.request.thresholding = Some(Thresholding {
                        percentile: number("threshold_percentile", 1.0),
                        mimic: Some(number("mimic_scale", 7.0)),
                    });
                }
                // A loader, or a node that hands on what it is given.
                _ if node.inputs.get("model").is_none() => {}
                class => self
                    .recipe
                    .note(format!("the node `{class}`, which changes the model")),
            }
        }
        // The one nearest to the loader is merged first.
        self.recipe.loras.extend(loras.into_iter().rev());
        let names = ["ckpt_name", "unet_name", "model_name", "model_path"];
        let name = names.iter().find_map(|name| self.graph.text(node, name));
        self.recipe.model = name.map(|name| NamedModel {
            name: bare_name(&name),
            hash: None,
        });
    }

    fn lora(&mut self, node: &Node) -> Option<NamedLora> {
        let name = self.graph.text(node, "lora_name")?;
        let unet = self.graph.number(node, "strength_model").unwrap_or(1.0) as f32;
        let text = match node.class_type.as_str() {
            "LoraLoaderModelOnly" => 0.0,
            _ => self.graph.number(node, "strength_clip").unwrap_or(1.0) as f32,
        };
        Some(NamedLora {
            name: bare_name(&name),
            unet,
            text,
        })
    }

    /// The words of a condition, back through what changes it.
    fn words(&mut self, node: &'g Node, wanted: bool) {
        let mut node = node;
        for _ in 0..LONGEST {
            match node.class_type.as_str() {
                "CLIPTextEncode" => return self.encoded(node, "text", wanted),
                "CLIPTextEncodeSDXL" => return self.encoded_twice(node, wanted),
                "ConditioningZeroOut" if !wanted => {
                    self.recipe.request.force_zeros_for_empty_prompt = Some(true);
                    return;
                }
                "ControlNetApply" | "ControlNetApplyAdvanced" if wanted => {
                    let network = self.graph.behind(node, "control_net");
                    let name = network.and_then(|node| self.graph.text(node, "control_net_name"));
                    let what = format!(
                        "the ControlNet `{}` and its picture",
                        name.unwrap_or_default()
                    );
                    self.recipe.wants(what, "control");
                }
                "Reroute" | "ControlNetApply" | "ControlNetApplyAdvanced" => {}
                class => self
                    .recipe
                    .note(format!("the node `{class}` on the way from the words")),
            }
            let ways = [
                "conditioning",
                "positive",
                "negative",
                "conditioning_1",
                "conditioning_to",
                "",
            ];
            let way = if wanted {
                &ways[..]
            } else {
                &[
                    "negative",
                    "conditioning",
                    "conditioning_1",
                    "conditioning_to",
                    "",
                ][..]
            };
            match way.iter().find_map(|way| self.graph.behind(node, way)) {
                Some(before) => node = before,
                None => break,
            }
        }
        let whose = if wanted { "prompt" } else { "negative prompt" };
        self.recipe
            .note(format!("the {whose}, which no `CLIPTextEncode` holds"));
    }

    fn encoded(&mut self, node: &'g Node, input: &str, wanted: bool) {
        let Some(text) = self.graph.text(node, input) else {
            return self.recipe.note(format!(
                "words that the node `{}` is given by another",
                node.class_type
            ));
        };
        if wanted {
            self.recipe.request.prompt = text;
            self.clip_skip(node);
        } else {
            // An empty text is read there, where diffusers has zeros in its place.
            self.recipe.request.force_zeros_for_empty_prompt = text.is_empty().then_some(false);
            self.recipe.request.negative_prompt = text;
        }
    }

    /// Words for two text encoders, and sizes.
    fn encoded_twice(&mut self, node: &'g Node, wanted: bool) {
        self.encoded(node, "text_l", wanted);
        let second = self.graph.text(node, "text_g").unwrap_or_default();
        let request = &mut self.recipe.request;
        let (first, place) = if wanted {
            (&request.prompt, &mut request.prompt_2)
        } else {
            (&request.negative_prompt, &mut request.negative_prompt_2)
        };
        if *first != second {
            *place = second;
        }
        if !wanted {
            return;
        }
        let pair = |x: &str, y: &str| {
            let number = |input| self.graph.whole(node, input).map(|number| number as usize);
            Some([number(x)?, number(y)?])
        };
        let sizes = &mut request.micro_conditioning;
        sizes.original_size = pair("width", "height");
        sizes.crop = pair("crop_w", "crop_h");
        sizes.target_size = pair("target_width", "target_height");
    }

    /// `CLIPSetLastLayer` counts from the end, -1 being all layers.
    fn clip_skip(&mut self, node: &'g Node) {
        let mut node = node;
        for _ in 0..LONGEST {
            let Some(before) = self.graph.behind(node, "clip") else {
                return;
            };
            node = before;
            if node.class_type == "CLIPSetLastLayer" {
                let layer = self
                    .graph
                    .number(node, "stop_at_clip_layer")
                    .unwrap_or(-1.0);
                let skip = (-layer - 1.0).max(0.0) as usize;
                self.recipe.request.clip_skip = (skip > 0).then_some(skip);
                return;
            }
        }
    }

    /// Size, and whether it begins with noise alone.
    fn latents(&mut self, node: &'g Node, schedule: &'g Node) {
        let Some(source) = self.graph.behind(node, "latent_image") else {
            return;
        };
        let side = |input| self.graph.whole(source, input).map(|side| side as usize);
        let (width, height) = (side("width"), side("height"));
        if source.class_type.starts_with("Empty") {
            (self.recipe.request.width, self.recipe.request.height) = (width, height);
            let batch = self.graph.whole(source, "batch_size").unwrap_or(1);
            if batch > 1 {
                self.recipe.note(format!(
                    "which of {batch} pictures of one noise it is; the first is drawn"
                ));
            }
            return;
        }
        self.recipe.wants("the picture that it starts from", "init");
        self.recipe.request.strength = self.graph.number(schedule, "denoise");
        if source.class_type.contains("Inpaint") || source.class_type == "SetLatentNoiseMask" {
            self.recipe.wants("the mask that it was painted in", "mask");
        }
    }

    /// A node that may do some of the steps only.
    fn part_of_the_steps(&mut self, node: &Node) {
        let start = self.graph.whole(node, "start_at_step").unwrap_or(0);
        let end = self.graph.whole(node, "end_at_step").unwrap_or(u64::MAX);
        let steps = self.graph.whole(node, "steps").unwrap_or(0);
        if start > 0 || end < steps {
            self.recipe.note(format!(
                "that it does the steps from {start} to {} only",
                end.min(steps)
            ));
        }
    }

    fn named_vae(&mut self) {
        let decoders = self
            .graph
            .0
            .values()
            .filter(|node| node.class_type.starts_with("VAEDecode"));
        let mut loaders = decoders.filter_map(|node| self.graph.behind(node, "vae"));
        let name = loaders.find_map(|loader| self.graph.text(loader, "vae_name"));
        if let Some(name) = name {
            self.recipe
                .wants(format!("the autoencoder `{}`", bare_name(&name)), "vae");
        }
    }
}

#[cfg(test)]
mod tests;
