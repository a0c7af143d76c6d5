//! The header fields of a request that may have to be sent again.

use http::{HeaderMap, HeaderName, HeaderValue};

/// A copy of header fields in buffers that are used again and again: cloning a name or value made at run time would allocate.
#[derive(Default)]
pub(crate) struct Fields {
    bytes: Vec<u8>,
    /// Where in `bytes` each name ends, and the value after it.
    ends: Vec<(usize, usize)>,
}

impl Fields {
    /// Keeps `headers`, and forgets what was kept before.
    pub(crate) fn keep(&mut self, headers: &HeaderMap) {
        self.forget();
        for (name, value) in headers {
            self.bytes.extend_from_slice(name.as_str().as_bytes());
            let name_end = self.bytes.len();
            self.bytes.extend_from_slice(value.as_bytes());
            self.ends.push((name_end, self.bytes.len()));
        }
    }

    pub(crate) fn forget(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// What was kept, in the order in which it was.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.ends.len());
        let mut start = 0;
        for &(name_end, end) in &self.ends {
            let name = HeaderName::from_bytes(&self.bytes[start..name_end]);
            let value = HeaderValue::from_bytes(&self.bytes[name_end..end]);
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
            start = end;
        }
        headers
    }
}
