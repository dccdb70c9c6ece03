//! The eight npm packages that hold the drawings: fetched by `npm`, checked, read without being unpacked.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha512};

use super::tables::tables;
use super::{Progress, Watcher, tell};
use crate::DataError;

/// A package as npm knows it.
#[derive(Debug)]
pub(super) struct Package {
    /// The style whose drawings it holds.
    pub(super) style: &'static str,
    scope: &'static str,
    name: &'static str,
    version: &'static str,
    bytes: u64,
    /// As npm prints it, without `sha512-`.
    sha512: &'static str,
}

/// Every package, in the order of the styles.
pub(super) const PACKAGES: &[Package] = &[
    Package {
        style: "3d",
        scope: "lobehub",
        name: "fluent-emoji-3d",
        version: "1.1.0",
        bytes: 15_792_027,
        sha512: "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    },
    Package {
        style: "flat",
        scope: "iconify-json",
        name: "fluent-emoji-flat",
        version: "1.2.6",
        bytes: 1_172_438,
        sha512: "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    },
    Package {
        style: "cartoon",
        scope: "iconify-json",
        name: "noto",
        version: "1.2.9",
        bytes: 3_102_958,
        sha512: "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    },
    Package {
        style: "retro",
        scope: "iconify-json",
        name: "noto-v1",
        version: "1.2.5",
        bytes: 1_587_591,
        sha512: "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    },
    Package {
        style: "sticker",
        scope: "iconify-json",
        name: "twemoji",
        version: "1.2.5",
        bytes: 1_555_888,
        sha512: "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    },
    Package {
        style: "pastel",
        scope: "iconify-json",
        name: "fxemoji",
        version: "1.2.2",
        bytes: 1_034_876,
        sha512: "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    },
    Package {
        style: "comic",
        scope: "iconify-json",
        name: "streamline-emojis",
        version: "1.2.4",
        bytes: 381_714,
        sha512: "iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
    },
    Package {
        style: "ink",
        scope: "iconify-json",
        name: "fluent-emoji-high-contrast",
        version: "1.2.6",
        bytes: 1_054_969,
        sha512: "esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    },
];

/// The program that fetches packages.
const NPM: &str = if cfg!(windows) { "npm.cmd" } else { "npm" };

impl Package {
    /// As in `@iconify-json/noto@1.2.9`.
    fn spec(&self) -> String {
        format!("@{}/{}@{}", self.scope, self.name, self.version)
    }

    /// The name that `npm pack` gives the file.
    fn file_name(&self) -> String {
        format!("{}-{}-{}.tgz", self.scope, self.name, self.version)
    }

    fn url(&self) -> String {
        let (scope, name, version) = (self.scope, self.name, self.version);
        format!("https://registry.npmjs.org/@{scope}/{name}/-/{name}-{version}.tgz")
    }

    fn fault(&self, reason: String) -> DataError {
        DataError::Package {
            package: self.spec(),
            reason,
        }
    }

    /// What a person can do where npm cannot.
    fn by_hand(&self, folder: &Path) -> String {
        format!(
            "or download `{}` and save it as `{}`",
            self.url(),
            folder.join(self.file_name()).display()
        )
    }
}

/// Fetches the packages that are not in `folder` yet, and checks all of them.
///
/// # Errors
/// [`DataError::Package`] if `npm` is missing or fails, or a file's sha512 is not the published one; it says what to
/// download by hand and where to put it.
pub fn fetch(folder: &Path, watcher: Watcher<'_>) -> Result<(), DataError> {
    for package in PACKAGES {
        tarball(package, folder, watcher)?;
    }
    Ok(())
}

/// The checked bytes of a package.
fn tarball(package: &Package, folder: &Path, watcher: Watcher<'_>) -> Result<Vec<u8>, DataError> {
    let path = folder.join(package.file_name());
    let spec = package.spec();
    if !path.is_file() {
        let bytes = package.bytes;
        tell(
            watcher,
            Progress::Fetching {
                package: &spec,
                bytes,
            },
        )?;
        fetch_one(package, folder, NPM)?;
    }
    tell(watcher, Progress::Reading { package: &spec })?;
    read_checked(package, &path)
}

/// Runs `npm pack`; the file takes its place only when its checksum is right.
fn fetch_one(package: &Package, folder: &Path, npm: &str) -> Result<(), DataError> {
    fs::create_dir_all(folder).map_err(|error| DataError::io("make the folder", folder, error))?;
    let unfinished = tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempdir_in(folder);
    let unfinished = unfinished.map_err(|error| DataError::io("write into", folder, error))?;
    let run = Command::new(npm)
        .args([
            "pack",
            &package.spec(),
            "--silent",
            "--ignore-scripts",
            "--pack-destination",
        ])
        .arg(unfinished.path())
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let by_hand = package.by_hand(folder);
            let reason = format!("`{npm}` is not installed; install Node.js, {by_hand}");
            return Err(package.fault(reason));
        }
        Err(error) => return Err(package.fault(format!("`{npm}` does not start: {error}"))),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("nothing");
        let by_hand = package.by_hand(folder);
        let reason = format!("`{npm} pack` failed and said: {said}; try again, {by_hand}");
        return Err(package.fault(reason));
    }
    let fetched = unfinished.path().join(package.file_name());
    read_checked(package, &fetched)?;
    let path = folder.join(package.file_name());
    fs::rename(&fetched, &path).map_err(|error| DataError::io("move a package to", &path, error))
}

fn read_checked(package: &Package, path: &Path) -> Result<Vec<u8>, DataError> {
    let file = File::open(path).map_err(|error| DataError::io("read", path, error))?;
    let mut bytes = Vec::new();
    // One byte more than it has: a wrong file need not be read to its end.
    let read = file.take(package.bytes + 1).read_to_end(&mut bytes);
    read.map_err(|error| DataError::io("read", path, error))?;
    let found = base64(&Sha512::digest(&bytes));
    if found == package.sha512 {
        return Ok(bytes);
    }
    Err(package.fault(format!(
        "`{}` is not the published file (sha512-{found}, needed sha512-{}); delete it and try again",
        path.display(),
        package.sha512
    )))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = (word >> (18 - 6 * place)) & 63;
            let filled = place <= chunk.len();
            text.push(if filled {
                char::from(DIGITS[digit as usize])
            } else {
                '='
            });
        }
    }
    text
}

/// An icon set as Iconify writes it; aliases and what else it says are not needed.
#[derive(Debug, Deserialize)]
pub(super) struct IconSet {
    icons: HashMap<String, Icon>,
    width: Option<f64>,
    height: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Icon {
    body: String,
    width: Option<f64>,
    height: Option<f64>,
    #[serde(default)]
    left: f64,
    #[serde(default)]
    top: f64,
}

/// Side of icons whose set gives none.
const ICON_SIDE: f64 = 16.0;

impl IconSet {
    /// The icon as a file of its own.
    pub(super) fn svg(&self, name: &str) -> Option<String> {
        let icon = self.icons.get(name)?;
        let width = icon.width.or(self.width).unwrap_or(ICON_SIDE);
        let height = icon.height.or(self.height).unwrap_or(ICON_SIDE);
        let (left, top, body) = (icon.left, icon.top, &icon.body);
        Some(format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{left} {top} {width} {height}" width="{width}" height="{height}" color="#16181c">{body}</svg>"##
        ))
    }
}

/// The drawings of some styles, as the packages hold them.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) icons: HashMap<&'static str, IconSet>,
    /// Files of the 3D package.
    pub(super) renders: HashMap<String, Vec<u8>>,
}

impl Sources {
    /// Reads the packages of `styles`, fetching those that are missing.
    pub(super) fn open(
        folder: &Path,
        styles: &[&str],
        watcher: Watcher<'_>,
    ) -> Result<Self, DataError> {
        let mut sources = Self::default();
        for package in PACKAGES
            .iter()
            .filter(|package| styles.contains(&package.style))
        {
            let bytes = tarball(package, folder, watcher)?;
            let fault = |error: io::Error| package.fault(format!("it cannot be read: {error}"));
            if package.style == "3d" {
                sources.renders = read_renders(&bytes).map_err(fault)?;
            } else {
                let set = read_icons(&bytes).map_err(fault)?;
                sources.icons.insert(package.style, set);
            }
        }
        Ok(sources)
    }
}

/// Every file of a package, by its path inside of it.
fn for_each_file(
    tarball: &[u8],
    mut visit: impl FnMut(&str, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let mut archive = tar::Archive::new(GzDecoder::new(tarball));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path: PathBuf = entry.path()?.into_owned();
        // npm puts everything into a folder `package`.
        let inside: PathBuf = path.components().skip(1).collect();
        visit(&inside.to_string_lossy().replace('\\', "/"), &mut entry)?;
    }
    Ok(())
}

fn read_icons(tarball: &[u8]) -> io::Result<IconSet> {
    let mut found = None;
    for_each_file(tarball, |path, file| {
        if path == "icons.json" {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            found = Some(serde_json::from_str(&text)?);
        }
        Ok(())
    })?;
    found.ok_or_else(|| io::Error::other("it has no `icons.json`"))
}

/// The files that the table names.
fn read_renders(tarball: &[u8]) -> io::Result<HashMap<String, Vec<u8>>> {
    let rows = tables().drawings.iter().filter(|row| row.style.key == "3d");
    let needed: Vec<&str> = rows.map(|row| row.source).collect();
    let needed: std::collections::HashSet<&str> = needed.into_iter().collect();
    let mut found = HashMap::new();
    for_each_file(tarball, |path, file| {
        if needed.contains(path) {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            found.insert(path.to_string(), bytes);
        }
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow;

    fn packed(files: &[(&str, &str)]) -> Vec<u8> {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut archive = tar::Builder::new(gzip);
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            archive
                .append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    fn package_of(tarball: &[u8]) -> Package {
        Package {
            style: "flat",
            scope: "latent",
            name: "none",
            version: "1.0.0",
            bytes: tarball.len() as u64,
            sha512: base64(&Sha512::digest(tarball)).leak(),
        }
    }

    #[test]
    fn bytes_are_written_as_rfc_4648_says() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ];
        for (bytes, expected) in cases {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn an_icon_takes_its_box_from_itself_or_its_set() {
        let json = r#"{"icons": {"a": {"body": "<path/>"}, "b": {"body": "", "width": 8, "left": -2}}, "width": 32, "height": 32.5}"#;
        let set = read_icons(&packed(&[("package/icons.json", json)])).unwrap();
        let svg = set.svg("a").unwrap();
        assert!(svg.contains(r#"viewBox="0 0 32 32.5" width="32""#), "{svg}");
        assert!(set.svg("b").unwrap().contains(r#"viewBox="-2 0 8 32.5""#));
        assert!(set.svg("c").is_none());
    }

    #[test]
    fn a_package_that_was_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let package = package_of(b"right");
        let path = folder.path().join(package.file_name());
        fs::write(&path, b"wrong").unwrap();
        let message = read_checked(&package, &path).unwrap_err().to_string();
        assert!(message.contains("is not the published file"), "{message}");
        fs::write(&path, b"right").unwrap();
        assert_eq!(read_checked(&package, &path).unwrap(), b"right");
    }

    #[test]
    fn a_package_that_is_there_needs_no_npm() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = packed(&[("package/icons.json", "{}")]);
        let package = package_of(&bytes);
        fs::write(folder.path().join(package.file_name()), &bytes).unwrap();
        let read = tarball(&package, folder.path(), &|_| ControlFlow::Continue(())).unwrap();
        assert_eq!(read, bytes);
    }

    #[test]
    fn without_npm_it_says_what_to_download_and_where_to_put_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = fetch_one(&PACKAGES[2], folder.path(), "npm-that-is-not-there").unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("https://registry.npmjs.org/@iconify-json/noto/-/noto-1.2.9.tgz"),
            "{message}"
        );
        assert!(message.contains("iconify-json-noto-1.2.9.tgz"), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stop_before_fetching_stops() {
        let folder = tempfile::tempdir().unwrap();
        let error = fetch(folder.path(), &|_| ControlFlow::Break(())).unwrap_err();
        assert!(matches!(error, DataError::Stopped));
    }
}
