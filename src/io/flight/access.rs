//! Who may call: whoever shows the token as `authorization: Bearer TOKEN`.

use std::fmt;

use tonic::{Request, Status};

/// A secret that clients have to show. It is never printed, and kept as its digest only.
#[derive(Clone)]
pub struct Token(blake3::Hash);

impl Token {
    /// The token `text`, without white space around it; none where nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(blake3::hash(text.as_bytes())))
    }

    /// Whether `text` is the token. The time that this takes says nothing of the token: digests are compared, whose `==` looks at
    /// all of their bytes.
    fn is(&self, text: &str) -> bool {
        self.0 == blake3::hash(text.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Lets calls through that show `token`, or all where there is none.
pub(super) fn guard(token: Option<Token>) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request: Request<()>| {
        let Some(token) = &token else { return Ok(request) };
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        match shown.and_then(|value| value.strip_prefix("Bearer ")) {
            Some(shown) if token.is(shown.trim()) => Ok(request),
            Some(_) => Err(Status::unauthenticated("wrong token")),
            None => Err(Status::unauthenticated("no token; send the header `authorization: Bearer TOKEN`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens() {
        let token = Token::new(" secret\n").unwrap();
        assert!(!format!("{token:?}").contains("secret"));
        let guard = guard(Some(token));
        let call = |header: Option<&str>| {
            let mut request = Request::new(());
            if let Some(header) = header {
                request.metadata_mut().insert("authorization", header.parse().unwrap());
            }
            guard(request).map(drop).map_err(|status| status.code())
        };
        assert_eq!(call(Some("Bearer secret")), Ok(()));
        for wrong in
            [None, Some("secret"), Some("Bearer "), Some("Bearer secre"), Some("Bearer secrets"), Some("Basic secret")]
        {
            assert_eq!(call(wrong), Err(tonic::Code::Unauthenticated), "{wrong:?}");
        }
        assert!(Token::new(" \n").is_none());
    }
}
