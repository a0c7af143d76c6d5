//! A document of many small things.

use serde::{Deserialize, Serialize};

/// One of them: some 150 bytes of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they mean nothing")]
pub struct Entity {
    pub id: usize,
    pub name: String,
    pub score: f64,
    pub tags: Vec<String>,
    pub place: Place,
}

/// Where it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they mean nothing")]
pub struct Place {
    pub street: String,
    pub number: usize,
    pub city: String,
}

impl Entity {
    /// So many of them.
    pub fn some(count: usize) -> Vec<Self> {
        let place = |number| Place { street: "Long Street".into(), number, city: "Somewhere".into() };
        let tags = ["red", "round", "rare"].map(String::from);
        (0..count)
            .map(|id| Self {
                id,
                name: format!("entity {id}"),
                score: id as f64 / 7.0,
                tags: tags.to_vec(),
                place: place(id % 100),
            })
            .collect()
    }
}
