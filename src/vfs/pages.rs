//! A listing page by page, that ends.
//!
//! The store sees to it that each page begins behind the one before. That alone is no end: a server may answer with pages that hold nothing and
//! have one more behind them, for ever, while the program that waits cannot be interrupted. So only so many of them are followed.

use std::sync::Arc;

use crate::store::{self, Bucket, Kind, ListRequest, Operation, Page};

use crate::support::Ctx;

use crate::vfs::Result;

/// How many pages without anything in them are followed in a row. COS sends none.
pub(super) const FRUITLESS: u32 = 100;

/// The pages of one listing.
#[derive(Debug)]
pub(super) struct Pages {
    /// What the next page is asked with; `None` behind the last.
    request: Option<ListRequest>,
    fruitless: u32,
}

impl Pages {
    /// All that `request` names, from where it begins.
    pub(super) fn new(request: ListRequest) -> Self {
        Self { request: Some(request), fruitless: 0 }
    }

    /// The next page.
    ///
    /// # Errors
    /// The store's, and [`Kind::Corrupt`] for a listing of nothing that does not end.
    pub(super) async fn next(&mut self, cx: &Ctx, bucket: &Arc<dyn Bucket>) -> Result<Option<Page>> {
        let Some(request) = self.request.take() else { return Ok(None) };
        let page = bucket.list(cx, &request).await?;
        let empty = page.objects.is_empty() && page.prefixes.is_empty();
        self.fruitless = if empty { self.fruitless + 1 } else { 0 };
        if self.fruitless > FRUITLESS {
            return Err(endless(&request.prefix).into());
        }
        self.request = page.next.clone().map(|next| ListRequest { after: Some(next), ..request });
        Ok(Some(page))
    }

    /// Asks for nothing more.
    pub(super) fn end(&mut self) {
        self.request = None;
    }
}

/// What a listing is that goes on without bringing anything.
pub(super) fn endless(prefix: &str) -> store::Error {
    let why = format!("{FRUITLESS} pages in a row hold nothing, and there is always another");
    store::Error::new(Kind::Corrupt, Operation::List.name(), why).at(prefix)
}
