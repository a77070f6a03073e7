//! What a store's errors mean: whether to try again, and what to say. What a server answers may quote keys, signatures
//! and signed URLs; only its code and message pass, and those are cleaned.

use std::error::Error as StdError;

use object_store::Error as StoreError;
use object_store::client::HttpError;

/// Whether the same request may work later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retryability {
    /// No.
    Never,
    /// Hardly: nobody could say who we are.
    Identity,
    /// Yes.
    Later,
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

fn says(error: &StoreError, words: &[&str]) -> bool {
    chain(error).map(ToString::to_string).any(|text| words.iter().any(|word| text.contains(word)))
}

/// The status that a server answered with. `object_store` keeps the type that holds it to itself.
fn status(error: &StoreError) -> Option<u16> {
    let after = |text: String| text.split_once("status code: ")?.1.get(..3)?.parse().ok();
    chain(error).map(ToString::to_string).find_map(after)
}

pub(super) fn retryability(error: &StoreError) -> Retryability {
    if !matches!(error, StoreError::Generic { .. }) {
        return Retryability::Never;
    }
    if says(error, &["169.254.", "metadata.google.internal"]) {
        return Retryability::Identity;
    }
    match status(error) {
        Some(501) => Retryability::Never,
        Some(408 | 429 | 500..) => Retryability::Later,
        Some(_) => Retryability::Never,
        None if says(error, &["scheme is not allowed", "builder error"]) => Retryability::Never,
        // The connection broke, or what came over it was no whole answer.
        None => match chain(error).any(|error| error.is::<HttpError>()) || says(error, &["error response"]) {
            true => Retryability::Later,
            false => Retryability::Never,
        },
    }
}

/// Whether it is not the file that is missing, but all around it.
pub(super) fn is_bucket(error: &StoreError) -> bool {
    says(error, &["NoSuchBucket", "ContainerNotFound"])
}

/// What happened and, where it is known, what to do.
pub(super) fn message(error: &StoreError) -> String {
    let said = said(error);
    let what = match error {
        StoreError::NotFound { .. } if is_bucket(error) => "there is no such bucket; make it first".to_owned(),
        StoreError::NotFound { .. } => "no such file".to_owned(),
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            let said = said.map(|said| format!(" ({said})")).unwrap_or_default();
            format!("permission denied{said}; check the credentials in the environment and what they may do here")
        }
        _ if says(error, &["scheme is not allowed"]) => {
            "the endpoint has no TLS; permit that with `storage: { allow_http: true }`".to_owned()
        }
        _ if retryability(error) == Retryability::Identity => {
            "no credentials in the environment, and the machine has no identity of its own; set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and its key"
                .to_owned()
        }
        _ => said.unwrap_or_else(|| innermost(error)),
    };
    cleaned(&what)
}

/// The server's status with the code and message of its answer.
fn said(error: &StoreError) -> Option<String> {
    let text = chain(error).map(ToString::to_string).filter(|text| text.contains("status code: ")).last()?;
    let (_, rest) = text.split_once("status code: ")?;
    let status = rest.split(['<', '{', '\n']).next().unwrap_or_default().trim_end_matches([':', ' ']);
    let tag = |name: &str| {
        let (_, rest) = rest.split_once(&format!("<{name}>"))?;
        rest.split_once('<').map(|(value, _)| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let parts = [Some(status.chars().take(60).collect()), tag("Code"), tag("Message")];
    Some(parts.into_iter().flatten().collect::<Vec<String>>().join(": "))
}

fn innermost(error: &StoreError) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

/// `text` without what stands between `//` and `@` or behind `?` in URLs, and without the values of the environment's
/// keys.
fn cleaned(text: &str) -> String {
    let url = |word: &str| {
        let Some(at) = word.find("://") else { return word.to_owned() };
        let (scheme, rest) = word.split_at(at + 3);
        let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
        let host = rest.find('/').unwrap_or(rest.len());
        format!("{scheme}{}{}", rest[..host].rsplit('@').next().unwrap_or_default(), &rest[host..])
    };
    let mut clean = text.split(' ').map(url).collect::<Vec<_>>().join(" ");
    let vendor = |name: &str| ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|prefix| name.starts_with(prefix));
    let key = |name: &str| ["KEY", "TOKEN", "SECRET", "SAS"].iter().any(|word| name.contains(word));
    for (name, value) in std::env::vars().filter(|(name, _)| vendor(name) && key(name)) {
        if value.len() > 3 {
            clean = clean.replace(&value, &format!("[{name}]"));
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn a_server_that_is_busy_gives_hope_and_one_that_refuses_does_not() {
        for (status, expected) in [
            ("500 Internal Server Error", Retryability::Later),
            ("503 Service Unavailable", Retryability::Later),
            ("429 Too Many Requests", Retryability::Later),
            ("400 Bad Request", Retryability::Never),
            ("501 Not Implemented", Retryability::Never),
        ] {
            let error = answered(&format!("Server returned non-2xx status code: {status}: "));
            assert_eq!(retryability(&error), expected, "{status}");
            assert_eq!(message(&error), status);
        }
    }

    #[test]
    fn answers_are_quoted_without_what_they_echo() {
        let body = "<Error><Code>SignatureDoesNotMatch</Code><Message>It does not match.</Message>\
                    <AWSAccessKeyId>AKIAEXAMPLE</AWSAccessKeyId><StringToSign>x</StringToSign></Error>";
        let error = answered(&format!("Server returned non-2xx status code: 400 Bad Request: {body}"));
        assert_eq!(message(&error), "400 Bad Request: SignatureDoesNotMatch: It does not match.");
        let error = answered("error for url (https://me:secret@host/a/b?X-Amz-Signature=abc) (os error 1)");
        assert_eq!(message(&error), "error for url (https://host/a/b (os error 1)");
    }
}
