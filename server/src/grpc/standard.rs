//! The standard services of the client port: health, which follows the node's phase, and reflection.

use std::sync::Arc;

use ringfort_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{admin_server, kv_server},
};
use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthApi, HealthServer},
};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use crate::health::{Health, Phase};

/// What clients may ask the health of, besides the whole (`""`).
const SERVICES: &[&str] = &["", kv_server::SERVICE_NAME, admin_server::SERVICE_NAME];

/// The health service: SERVING exactly while the node is ready. Follows `health` for as long as the task runs that
/// this starts, which ends with the phase `Draining`.
pub async fn health_service(health: &Arc<Health>) -> HealthServer<impl HealthApi> {
    let (reporter, server) = tonic_health::server::health_reporter();
    let mut phases = health.watch();
    let first = *phases.borrow_and_update();
    report(&reporter, first).await;
    tokio::spawn(async move {
        while phases.changed().await.is_ok() {
            let phase = *phases.borrow_and_update();
            report(&reporter, phase).await;
            if phase == Phase::Draining {
                return;
            }
        }
    });
    server
}

async fn report(reporter: &tonic_health::server::HealthReporter, phase: Phase) {
    let status = match phase {
        Phase::Ready => ServingStatus::Serving,
        Phase::Starting | Phase::Draining => ServingStatus::NotServing,
    };
    for service in SERVICES {
        reporter.set_service_status(*service, status).await;
    }
}

/// The reflection service, so that `grpcurl` and its like need no files. It shows what this port serves.
pub fn reflection_service() -> ServerReflectionServer<impl ServerReflection> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(kv_server::SERVICE_NAME)
        .with_service_name(admin_server::SERVICE_NAME)
        .with_service_name(<HealthServer<Nothing> as NamedService>::NAME)
        .build_v1()
        .expect("the descriptors were made by this build")
}

/// Stands where a type parameter does not matter.
struct Nothing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptors_are_whole() {
        let _ = reflection_service();
    }
}
