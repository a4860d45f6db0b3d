//! What every room may need and that needs no room: the context of a call, time and chance, the memory budget, sizes, tasks, counters.
//!
//! Not a drawer: a file here has users in two rooms or moves to the one that uses it.

mod budget;
mod clock;
mod ctx;
mod metrics;
mod pool;
mod size;
mod tasks;

pub use budget::{Budget, Reservation, Share};
pub use clock::{Clock, SystemClock};
pub use ctx::{Ctx, NoProgress, SLOWEST, Urgency};
pub use metrics::{Counter, Metrics};
pub use pool::Pool;
pub use size::ByteSize;
pub use tasks::TaskGroup;
