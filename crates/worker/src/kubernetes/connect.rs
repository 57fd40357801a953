//! The way to the API server: from the cluster we run in, or from a kubeconfig.

use super::options::KubernetesOptions;
use crate::log::with_sources;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// How to reach the API server; `Display` says what to set.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no service account of a cluster: {0}; set K8S_IN_CLUSTER=false and KUBECONFIG outside of one")]
    InCluster(String),
    #[error("KUBECONFIG: {0}")]
    Kubeconfig(String),
    #[error("the client cannot be made: {0}")]
    Client(String),
}

/// What the settings name; nothing is asked yet.
pub(super) async fn config(options: &KubernetesOptions) -> Result<Config, ConnectError> {
    if options.k8s_in_cluster {
        return Config::incluster().map_err(|error| ConnectError::InCluster(with_sources(&error)));
    }
    let kubeconfig = |error| ConnectError::Kubeconfig(with_sources(&error));
    match &options.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(kubeconfig)?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            config.map_err(kubeconfig)
        }
        None => Config::from_kubeconfig(&KubeConfigOptions::default())
            .await
            .map_err(kubeconfig),
    }
}
