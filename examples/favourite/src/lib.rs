//! A policy with a favourite: the first available backend gets most new sessions, the others take
//! turns for the rest. The demo loads it to show a change of distribution.
//!
//! Invariant: after any number of sessions the favourite has its percentage of them, within one
//! session.

use serde::Deserialize;
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy};

/// `policy_config = { percent = 60 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The favourite's share of the sessions, 0 to 100.
    pub percent: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { percent: 60 }
    }
}

pub struct Favourite {
    percent: u32,
    /// The favourite's outstanding share, in hundredths of a session.
    credit: u32,
    favourite: Option<usize>,
    others: Vec<usize>,
    turn: usize,
}

impl Policy for Favourite {
    type Config = Config;

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        if config.percent > 100 {
            return Err(format!(
                "policy_config.percent = {}: expected 0 to 100",
                config.percent
            )
            .into());
        }
        let mut policy = Self {
            percent: config.percent,
            credit: 0,
            favourite: None,
            others: Vec::new(),
            turn: 0,
        };
        policy.backends_changed(backends)?;
        Ok(policy)
    }

    fn pick(&mut self, _: &Flow<'_>, _: &Backends<'_>) -> Pick {
        let Some(favourite) = self.favourite else {
            return Pick::Fallback;
        };
        self.credit += self.percent;
        if self.credit >= 100 || self.others.is_empty() {
            self.credit = self.credit.saturating_sub(100);
            return Pick::Backend(favourite);
        }
        self.turn = (self.turn + 1) % self.others.len();
        Pick::Backend(self.others[self.turn])
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        let mut available = backends.available().map(|backend| backend.index());
        self.favourite = available.next();
        self.others = available.collect();
        Ok(())
    }
}

export_policy!(Favourite);

#[cfg(test)]
mod tests {
    use waxwing_sdk::testing::{self, Driver};

    use super::*;

    fn shares(config: &str, weights: &[u32]) -> Result<Vec<usize>, ConfigError> {
        let mut driver = Driver::<Favourite>::start(config, &testing::backends(weights), 1)?;
        let picks = driver.pick_all(testing::flows(1).take(1000));
        Ok(testing::counts(&picks, weights.len()))
    }

    #[test]
    fn the_favourite_gets_its_percentage_and_the_others_share_the_rest() -> Result<(), ConfigError>
    {
        assert_eq!(shares("{}", &[1, 1, 1])?, [600, 200, 200]);
        assert_eq!(shares(r#"{ "percent": 90 }"#, &[1, 1, 1])?, [900, 50, 50]);
        Ok(())
    }

    #[test]
    fn a_drained_backend_gets_no_sessions() -> Result<(), ConfigError> {
        assert_eq!(shares("{}", &[1, 1, 0])?, [600, 400, 0]);
        assert_eq!(shares("{}", &[0, 1, 1])?, [0, 600, 400]);
        assert_eq!(shares("{}", &[0, 1, 0])?, [0, 1000, 0]);
        Ok(())
    }

    #[test]
    fn a_percentage_over_100_is_refused() {
        assert!(shares(r#"{ "percent": 101 }"#, &[1]).is_err());
    }
}
