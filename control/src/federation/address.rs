//! Where a bundle endpoint is: an `https` URL without user information (Federation 5.2.1.1, 5.2.2.1).

use std::{fmt, str::FromStr};

use http::Uri;

/// The URL of a bundle endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    host: String,
    port: u16,
    path: String,
}

impl EndpointUrl {
    /// Host name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, beginning with a slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and port as an HTTP request names them.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.port {
            443 => host,
            port => format!("{host}:{port}"),
        }
    }

    /// Where a redirect from here leads: it must be an endpoint's URL too (5.2.1.3).
    ///
    /// # Errors
    /// When it is none.
    pub fn redirected(&self, location: &str) -> Result<Self, String> {
        match location.strip_prefix('/') {
            Some(rest) if !rest.starts_with('/') => format!("https://{}{location}", self.authority()).parse(),
            _ => location.parse(),
        }
    }
}

impl FromStr for EndpointUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("not a URL: {error}"))?;
        if uri.scheme_str() != Some("https") {
            return Err("its scheme is not https (SPIFFE Federation 5.2)".to_owned());
        }
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("it carries user information, which is not allowed (SPIFFE Federation 5.2)".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("it names no host".to_owned());
        }
        // `Uri` passes over a port that is no number: read what stands behind the host.
        let port = match &authority.as_str()[authority.host().len()..] {
            "" => 443,
            written => written
                .strip_prefix(':')
                .and_then(|digits| digits.parse().ok())
                .filter(|port| *port > 0)
                .ok_or("its port is no port")?,
        };
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_an_https_url_without_user_information() {
        for (text, shown) in [
            ("https://a.example", "https://a.example/"),
            ("https://A.example:443/b?c=d", "https://a.example/b?c=d"),
            ("https://[::1]:8443/", "https://[::1]:8443/"),
        ] {
            assert_eq!(text.parse::<EndpointUrl>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "http://a.example/",
            "a.example",
            "/path",
            "https:///x",
            "https://user@a.example/",
            "https://user:secret@a.example/",
            "https://a.example:0/",
            "https://a.example:http/",
            "spiffe://a.example",
        ] {
            assert!(bad.parse::<EndpointUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_redirect_leads_to_another_endpoint_or_nowhere() {
        let here: EndpointUrl = "https://a.example:8443/x".parse().unwrap();
        assert_eq!(here.redirected("/y").unwrap().to_string(), "https://a.example:8443/y");
        assert_eq!(here.redirected("https://b.example/").unwrap().host(), "b.example");
        for bad in ["http://a.example/", "//b.example/", "y", "https://u@b.example/"] {
            assert!(here.redirected(bad).is_err(), "{bad}");
        }
    }
}
