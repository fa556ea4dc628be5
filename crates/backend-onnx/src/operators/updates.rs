//! Adapters of the products that Tandem's operators compute. A run names the adapted model by a number, and each product looks up its update:
//! so any adapter is applied to the graph as it was loaded, and a run without one takes no notice.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ort::operator::ComputeContext;
use tandem_kernels::low_rank::Update;

use super::{node_error, optional_input};

/// The updates of one adapted model, by the names of products.
pub(crate) type ModelUpdates = HashMap<String, Update>;

/// What the products of a load look up.
#[derive(Default)]
pub(crate) struct Updates(RwLock<Models>);

#[derive(Default)]
struct Models {
    /// By the numbers that runs are given.
    known: HashMap<i64, Arc<ModelUpdates>>,
    last: i64,
}

/// An adapted model that products know, for as long as this lives.
pub(crate) struct Registered {
    updates: Arc<Updates>,
    number: i64,
}

impl Updates {
    /// Makes the updates of a model known.
    pub(crate) fn register(self: &Arc<Self>, model: ModelUpdates) -> Registered {
        let mut models = self.write();
        models.last += 1;
        let number = models.last;
        models.known.insert(number, Arc::new(model));
        Registered { updates: Arc::clone(self), number }
    }

    /// The model of this number.
    fn of(&self, number: i64) -> Option<Arc<ModelUpdates>> {
        self.read().known.get(&number).cloned()
    }

    /// The adapted model that the run of `context` is with, whose number is the input `place` of the node.
    pub(super) fn given(&self, context: &ComputeContext, place: usize) -> ort::Result<Option<Arc<ModelUpdates>>> {
        let number = optional_input::<i64>(context, place)?;
        match number.and_then(|number| number.extract_tensor().1.first().copied()) {
            None | Some(0) => Ok(None),
            Some(number) => {
                self.of(number).map(Some).ok_or_else(|| node_error(format!("no adapted model is registered as {number}")))
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Models> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Models> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    /// What runs are given.
    pub(crate) fn number(&self) -> i64 {
        self.number
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.updates.write().known.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_known_by_numbers_of_their_own_until_they_are_dropped() {
        let updates = Arc::<Updates>::default();
        let (first, second) = (updates.register(ModelUpdates::new()), updates.register(ModelUpdates::new()));
        assert!(first.number() != 0 && second.number() != 0 && first.number() != second.number());
        let number = first.number();
        drop(first);
        assert!(updates.of(number).is_none() && updates.of(second.number()).is_some());
        assert_ne!(updates.register(ModelUpdates::new()).number(), number, "a number is not used again");
    }
}
