//! `metrics.jsonl`, one line of averages every so many updates, and the plot drawn from it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use latent_formats::{Plot, Scale, Series, write_bytes};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Updates done, counted from 1.
    pub step: u64,
    /// What is minimised, averaged over the updates since the last line.
    pub loss: f64,
    /// The parts of the loss by name, averaged too.
    pub parts: serde_json::Map<String, serde_json::Value>,
    /// Learning rate of the last update.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping, averaged.
    pub gradient_norm: f64,
    /// Speed over these updates.
    pub pictures_per_second: f64,
    /// Seconds trained since the run, or its resumed part, began.
    pub seconds: f64,
}

/// The open `metrics.jsonl` of a run.
pub(crate) struct MetricsFile {
    path: PathBuf,
    lines: Vec<Metrics>,
}

impl MetricsFile {
    /// Opens the file and drops what was written after `step`, where the run goes on, and a last line cut in half.
    pub(crate) fn resume(run: &Path, step: u64) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let mut lines = read(&path)?;
        lines.retain(|line| line.step <= step);
        let mut text = Vec::new();
        for line in &lines {
            push(&mut text, line);
        }
        write_bytes(&path, &text)?;
        Ok(Self { path, lines })
    }

    pub(crate) fn append(&mut self, line: Metrics) -> Result<()> {
        let mut text = Vec::new();
        push(&mut text, &line);
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)
            .map_err(TrainError::io(&self.path))?;
        file.write_all(&text).map_err(TrainError::io(&self.path))?;
        self.lines.push(line);
        Ok(())
    }

    pub(crate) fn last(&self) -> Option<&Metrics> {
        self.lines.last()
    }

    /// Draws `loss.png` beside the file: the loss and its parts, each smoothed over a hundredth of the run.
    pub(crate) fn plot(&self, title: &str) -> Result<Option<PathBuf>> {
        if self.lines.len() < 2 {
            return Ok(None);
        }
        let mut series = vec![self.series("loss", |line| Some(line.loss))];
        if let Some(last) = self.lines.last()
            && last.parts.len() > 1
        {
            for name in last.parts.keys() {
                series.push(self.series(name, |line| line.parts.get(name)?.as_f64()));
            }
        }
        series.retain(|series| !series.points.is_empty());
        let plot = Plot {
            title: title.to_string(),
            x_label: "update".into(),
            y_label: "loss".into(),
            y_scale: Scale::Log,
            series,
        };
        let path = self.path.with_file_name("loss.png");
        plot.draw(900, 540)?.save(&path)?;
        Ok(Some(path))
    }

    fn series(&self, name: &str, value: impl Fn(&Metrics) -> Option<f64>) -> Series {
        let window = (self.lines.len() / 100).max(1);
        let all: Vec<(f64, f64)> = self
            .lines
            .iter()
            .filter_map(|line| Some((line.step as f64, value(line)?)))
            .filter(|(_, value)| *value > 0.0)
            .collect();
        let points = all
            .chunks(window)
            .map(|chunk| {
                let count = chunk.len() as f64;
                let sum = chunk
                    .iter()
                    .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
                (sum.0 / count, sum.1 / count)
            })
            .collect();
        Series {
            name: name.to_string(),
            points,
        }
    }
}

/// The lines of a `metrics.jsonl`; empty if the file is not there. A line that was cut in half ends the reading.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Vec<Metrics>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text
            .lines()
            .map_while(|line| serde_json::from_str(line).ok())
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(TrainError::io(path)(error)),
    }
}

fn push(text: &mut Vec<u8>, line: &Metrics) {
    // A struct of numbers and strings always serialises.
    if serde_json::to_writer(&mut *text, line).is_ok() {
        text.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> Metrics {
        Metrics {
            step,
            loss: 1.0 / step as f64,
            parts: serde_json::Map::new(),
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            pictures_per_second: 3.0,
            seconds: 1.0,
        }
    }

    #[test]
    fn lines_after_the_checkpoint_are_dropped_on_resume() {
        let run = tempfile::tempdir().expect("a folder");
        let mut file = MetricsFile::resume(run.path(), 0).expect("opened");
        for step in [10, 20, 30] {
            file.append(line(step)).expect("written");
        }
        let mut file = MetricsFile::resume(run.path(), 20).expect("opened");
        file.append(line(30)).expect("written");
        let read = read(&run.path().join("metrics.jsonl")).expect("read");
        assert_eq!(read, [line(10), line(20), line(30)]);
    }

    #[test]
    fn a_line_cut_in_half_is_left_out() {
        let run = tempfile::tempdir().expect("a folder");
        let path = run.path().join("metrics.jsonl");
        let mut text = Vec::new();
        push(&mut text, &line(10));
        text.extend_from_slice(br#"{"step":20,"lo"#);
        fs::write(&path, text).expect("written");
        assert_eq!(read(&path).expect("read"), [line(10)]);
    }

    #[test]
    fn a_plot_is_drawn_once_there_are_two_lines() {
        let run = tempfile::tempdir().expect("a folder");
        let mut file = MetricsFile::resume(run.path(), 0).expect("opened");
        file.append(line(10)).expect("written");
        assert!(file.plot("loss").expect("no plot").is_none());
        file.append(line(20)).expect("written");
        let path = file.plot("loss").expect("drawn").expect("a path");
        assert!(latent_formats::Picture::open(&path).is_ok());
    }
}
