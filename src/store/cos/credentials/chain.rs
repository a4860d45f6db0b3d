//! The first of several places that has credentials.

use std::sync::OnceLock;

use async_trait::async_trait;

use crate::store::cos::credentials::{Absence, Credentials, NoCredentials, Pace, Source};

/// Sources in their order. The first that answers is the one for good: what is signed with never changes its owner because a file went away.
#[derive(Debug)]
pub(super) struct Chain {
    all: Vec<Box<dyn Source>>,
    /// Whether a person said that it is to be these.
    chosen: bool,
    first: OnceLock<usize>,
}

impl Chain {
    pub(super) fn new(all: Vec<Box<dyn Source>>, chosen: bool) -> Self {
        Self { all, chosen, first: OnceLock::new() }
    }
}

#[async_trait]
impl Source for Chain {
    async fn fetch(&self) -> Result<Credentials, NoCredentials> {
        if let Some(first) = self.first.get() {
            return self.all[*first].fetch().await;
        }
        let mut passed_over = Vec::new();
        for (index, source) in self.all.iter().enumerate() {
            match source.fetch().await {
                Ok(credentials) => {
                    tracing::info!(source = credentials.origin(), passed_over = ?passed_over, "credentials found");
                    self.first.get_or_init(|| index);
                    return Ok(credentials);
                }
                Err(why) if why.absence == Absence::NotThere || (why.absence == Absence::Away && !self.chosen) => {
                    passed_over.push(why.to_string());
                }
                Err(why) => return Err(why),
            }
        }
        if self.chosen {
            return Err(NoCredentials::absent(passed_over.join("; ")));
        }
        Err(NoCredentials::absent(format!("there are no credentials; looked at, in this order: {}", passed_over.join("; "))))
    }

    fn pace(&self) -> Pace {
        self.first.get().map_or(Pace::Any, |first| self.all[*first].pace())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Answers in turn what it was told to.
    #[derive(Debug)]
    struct Told(Vec<Result<&'static str, Absence>>, AtomicUsize);

    fn told(answers: &[Result<&'static str, Absence>]) -> Box<dyn Source> {
        Box::new(Told(answers.to_vec(), AtomicUsize::new(0)))
    }

    #[async_trait]
    impl Source for Told {
        async fn fetch(&self) -> Result<Credentials, NoCredentials> {
            let at = self.1.fetch_add(1, Ordering::Relaxed).min(self.0.len() - 1);
            self.0[at].map(|id| Credentials::new(id, "k")).map_err(|absence| NoCredentials { why: format!("{absence:?}"), absence })
        }

        fn pace(&self) -> Pace {
            Pace::Ends
        }
    }

    #[tokio::test]
    async fn the_first_that_answers_is_the_one_for_good() {
        let chain = Chain::new(
            vec![told(&[Err(Absence::NotThere), Ok("late")]), told(&[Err(Absence::Away)]), told(&[Ok("a"), Err(Absence::Wrong), Ok("b")])],
            false,
        );
        assert_eq!(chain.fetch().await.unwrap().id(), "a");
        assert_eq!(chain.pace(), Pace::Ends);
        assert!(chain.fetch().await.is_err(), "no other takes its place");
        assert_eq!(chain.fetch().await.unwrap().id(), "b");
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_not_passed_over() {
        let chain = Chain::new(vec![told(&[Err(Absence::Wrong)]), told(&[Ok("a")])], false);
        assert_eq!(chain.fetch().await.unwrap_err().to_string(), "Wrong");
    }

    #[tokio::test]
    async fn each_place_and_why_it_was_passed_over_is_told() {
        let chain = Chain::new(vec![told(&[Err(Absence::NotThere)]), told(&[Err(Absence::Away)])], false);
        let why = chain.fetch().await.unwrap_err();
        assert!(why.to_string().ends_with("in this order: NotThere; Away") && !why.may_pass(), "{why}");
        let chosen = Chain::new(vec![told(&[Err(Absence::Away)])], true);
        assert!(chosen.fetch().await.unwrap_err().may_pass());
    }
}
