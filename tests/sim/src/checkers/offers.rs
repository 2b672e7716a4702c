//! An offer is used once, by whom it was made to, and not after its lease.

use std::collections::BTreeMap;

use leader::{Call, Reply};
use model::{Duration, FrameworkId, OfferId, RequestId};

use crate::{
    parameters::Parameters,
    record::{Checker, Fact},
    time::Moment,
};

/// Remembers every offer and what was launched with it.
pub struct OffersOnce {
    lease: Duration,
    made: BTreeMap<OfferId, (FrameworkId, Moment)>,
    used: BTreeMap<OfferId, RequestId>,
    /// When each accept was first asked for.
    asked: BTreeMap<RequestId, Moment>,
}

impl OffersOnce {
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            lease: parameters.offer_lease,
            made: BTreeMap::new(),
            used: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }
}

impl Checker for OffersOnce {
    fn name(&self) -> &'static str {
        "offers_once"
    }

    fn note(&mut self, now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Offered { framework, offer } => {
                let made = ((*framework).clone(), now);
                match self.made.insert(offer.offer.clone(), made) {
                    None => Ok(()),
                    Some((before, _)) => Err(format!("offer {} was made to {before} before", offer.offer)),
                }
            }
            Fact::Wished { call: Call::Accept { caller, .. }, .. } => {
                let request = caller.request.iter().map(|request| (request.clone(), now));
                self.asked.extend(request);
                Ok(())
            }
            Fact::Answered {
                call: Call::Accept { caller, offers, .. },
                answer: Ok(Reply::Launched(results)),
                ..
            } => {
                let Some(request) = &caller.request else { return Ok(()) };
                if results.iter().all(|(_, refusal)| refusal.is_some()) {
                    return Ok(());
                }
                for offer in offers {
                    let (framework, made) =
                        self.made.get(offer).ok_or(format!("offer {offer} was never made"))?;
                    if *framework != caller.framework {
                        return Err(format!("{} used offer {offer} of {framework}", caller.framework));
                    }
                    let asked = self.asked.get(request).copied().unwrap_or_default();
                    // It was made before it came, by a clock that is too slow by a twentieth at most.
                    if asked.since(*made) > self.lease.mul_f64(1.06) {
                        let late = asked.since(*made);
                        return Err(format!("offer {offer} was used {late:?} after it came"));
                    }
                    if let Some(before) = self.used.insert(offer.clone(), request.clone())
                        && before != *request
                    {
                        return Err(format!("offer {offer} was used by {before} and by {request}"));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
