//! The environment variables of Python's `huggingface_hub`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Where the hub is and where its files go.
#[derive(Clone)]
pub struct Settings {
    /// The hub, without a slash at the end.
    pub endpoint: String,
    /// The folder of `models--…` and `datasets--…`.
    pub cache: PathBuf,
    /// Who asks.
    pub token: Option<String>,
    /// Ask nobody: use what is there.
    pub offline: bool,
    /// Between the first attempt and the second; it doubles from there.
    pub pause: Duration,
}

impl Settings {
    /// From `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH` and `HF_HUB_OFFLINE` as Python reads
    /// them; `variable` gives their values.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let user = PathBuf::from(variable("HOME").or_else(|| variable("USERPROFILE")).unwrap_or_default());
        let path = |text: String| match text.strip_prefix("~/") {
            Some(below) => user.join(below),
            None => PathBuf::from(text),
        };
        let caches = variable("XDG_CACHE_HOME").map_or_else(|| user.join(".cache"), path);
        let home = variable("HF_HOME").map_or_else(|| caches.join("huggingface"), path);
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        let is_set = |name: &str| {
            variable(name).is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        let file = || fs::read_to_string(variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), path)).ok();
        let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(file).map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.map_or_else(|| home.join("hub"), path),
            token: token.filter(|_| !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")),
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
            pause: Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::new(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_environment_is_read_as_python_reads_it() {
        let plain = settings(&[("HOME", "/home/me")]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, Path::new("/home/me/.cache/huggingface/hub"));
        assert!(plain.token.is_none() && !plain.offline);
        assert_eq!(settings(&[("XDG_CACHE_HOME", "/c")]).cache, Path::new("/c/huggingface/hub"));
        assert_eq!(settings(&[("HOME", "/h"), ("HF_HOME", "~/hf")]).cache, Path::new("/h/hf/hub"));
        let all = settings(&[
            ("HF_HOME", "/hf"),
            ("HF_HUB_CACHE", "/cache"),
            ("HF_ENDPOINT", "http://h:1/"),
            ("HF_TOKEN", "t\n"),
        ]);
        assert_eq!((all.cache.as_path(), all.endpoint.as_str()), (Path::new("/cache"), "http://h:1"));
        assert_eq!(all.token.as_deref(), Some("t"));
        assert!(settings(&[("HF_HUB_OFFLINE", "yes")]).offline && settings(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).offline);

        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "from-file\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token.as_deref(), Some("from-file"));
        assert_eq!(settings(&[("HF_HOME", home), ("HF_TOKEN", "own")]).token.as_deref(), Some("own"));
        assert!(settings(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token.is_none());
    }
}
