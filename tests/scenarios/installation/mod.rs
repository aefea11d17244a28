//! The mesh installed in a real cluster, as an admin does it: what `squire install` prints is applied with kubectl, and from
//! then on everything that happens is Kubernetes' doing. The API server admits, calls the webhook and reviews tokens, the
//! controllers make pods and endpoints, the scheduler places them, and the node runs them as they were admitted.

mod admission;
mod cases;
mod life;
mod world;
