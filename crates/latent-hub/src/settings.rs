//! Where the hub is, where its files are kept, and who asks: the environment that other programs read too.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::HubError;

/// The hub that is asked where `HF_ENDPOINT` names no other.
const ENDPOINT: &str = "https://huggingface.co";

/// What the environment says of the hub.
///
/// Source of the names: `huggingface_hub`, "Environment variables".
#[derive(Clone)]
pub struct Settings {
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// The folder of `models--owner--name` folders.
    pub cache: PathBuf,
    /// What the hub knows its user by.
    pub token: Option<String>,
    /// Whether only the cache may be asked.
    pub offline: bool,
    /// The wait before a dropped download goes on; it doubles each time nothing came.
    pub pause: Duration,
}

impl fmt::Debug for Settings {
    /// Without the token, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("has_token", &self.token.is_some())
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`HubError::Settings`] for an address or a token that cannot be one, or if there is no home folder.
    pub fn from_env() -> Result<Self, HubError> {
        let variable = |name: &str| std::env::var(name).ok();
        Self::read(variable, std::env::home_dir())
    }

    fn read(
        variable: impl Fn(&str) -> Option<String>,
        user: Option<PathBuf>,
    ) -> Result<Self, HubError> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let is_on = |name: &str| variable(name).is_some_and(|value| is_true(&value));
        let path = |name: &str| Some(in_home(&variable(name)?, user.as_ref()));
        let home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(user.as_ref()?.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home.as_ref()?.join("hub")))
            .ok_or_else(|| {
                HubError::Settings(
                    "there is no home folder to keep the hub's files in; name one in `HF_HOME`"
                        .into(),
                )
            })?;
        let token = variable("HF_TOKEN").or_else(|| {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")))?;
            std::fs::read_to_string(file).ok()
        });
        let token = token.filter(|_| !is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        Ok(Self {
            endpoint: endpoint(variable("HF_ENDPOINT"))?,
            cache,
            token: checked(token)?,
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            pause: Duration::from_millis(500),
        })
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.trim().to_lowercase().as_str())
}

fn in_home(value: &str, home: Option<&PathBuf>) -> PathBuf {
    match (value.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(value),
    }
}

fn endpoint(stated: Option<String>) -> Result<String, HubError> {
    let stated = stated.unwrap_or_else(|| ENDPOINT.to_owned());
    let address = stated.trim().trim_end_matches('/');
    let is_web = ["https://", "http://"].iter().any(|start| {
        address
            .strip_prefix(start)
            .is_some_and(|rest| !rest.is_empty())
    });
    if is_web {
        return Ok(address.to_owned());
    }
    Err(HubError::Settings(format!(
        "`HF_ENDPOINT` is `{stated}`, which is no address; write it as {ENDPOINT}"
    )))
}

/// A token goes into a header, which holds printable ASCII only.
fn checked(token: Option<String>) -> Result<Option<String>, HubError> {
    let token = token.map(|token| token.trim().to_owned());
    let token = token.filter(|token| !token.is_empty());
    if token
        .as_ref()
        .is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        return Err(HubError::Settings(
            "the hub's token holds a space or a letter that no token has; set `HF_TOKEN` anew"
                .into(),
        ));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(find, Some("/home/me".into()))
    }

    #[test]
    fn the_cache_is_where_other_programs_have_it() {
        let cache = |variables: &[(&str, &str)]| read(variables).unwrap().cache;
        assert_eq!(cache(&[]), Path::new("/home/me/.cache/huggingface/hub"));
        let xdg = ("XDG_CACHE_HOME", "/x");
        assert_eq!(cache(&[xdg]), Path::new("/x/huggingface/hub"));
        let home = ("HF_HOME", "~/hf");
        assert_eq!(cache(&[xdg, home]), Path::new("/home/me/hf/hub"));
        let hub = ("HF_HUB_CACHE", "/c");
        assert_eq!(cache(&[xdg, home, hub]), Path::new("/c"));
        assert_eq!(
            cache(&[("HUGGINGFACE_HUB_CACHE", "/old")]),
            Path::new("/old")
        );
        assert!(Settings::read(|_| None, None).is_err());
    }

    #[test]
    fn a_token_comes_from_the_environment_or_the_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let token = |more: &[(&str, &str)]| {
            let mut variables = vec![("HF_HOME", home)];
            variables.extend(more);
            read(&variables).unwrap().token
        };
        assert_eq!(token(&[]).as_deref(), Some("hf_file"));
        let stated = ("HF_TOKEN", "hf_stated");
        assert_eq!(token(&[stated]).as_deref(), Some("hf_stated"));
        assert_eq!(
            token(&[stated, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]),
            None
        );
        let shown = format!("{:?}", read(&[stated]).unwrap());
        assert!(!shown.contains("hf_stated"), "{shown}");
        assert!(read(&[("HF_TOKEN", "a b")]).is_err());
    }

    #[test]
    fn an_address_has_no_slash_at_its_end_and_must_be_one() {
        let of = |address: &str| read(&[("HF_ENDPOINT", address)]).map(|s| s.endpoint);
        assert_eq!(of("http://h:1/x/").unwrap(), "http://h:1/x");
        assert!(of("ftp://h").is_err() && of("https://").is_err() && of("h").is_err());
        assert_eq!(read(&[]).unwrap().endpoint, ENDPOINT);
    }

    #[test]
    fn offline_is_what_people_write_for_yes() {
        for (value, offline) in [
            ("1", true),
            ("ON", true),
            ("true", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(
                read(&[("HF_HUB_OFFLINE", value)]).unwrap().offline,
                offline,
                "{value}"
            );
        }
    }
}
