//! `GET /metrics` and `GET /health`, on loopback.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Monitor, metrics};
use crate::config::error;
use crate::engine::Engine;
use crate::error::{AgentError, Result};

/// The media type of OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A server that is bound and not started yet.
#[derive(Debug)]
pub(crate) struct Server(std::net::TcpListener);

#[derive(Clone)]
struct Shared {
    monitor: Arc<Monitor>,
    engine: Arc<dyn Engine>,
    device: Arc<str>,
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// [`AgentError::Config`] if `address` is not of this machine alone, or is taken.
    pub(crate) fn bind(address: &str) -> Result<Self> {
        let refuse = |expected: &str| error("metrics.listen", address, expected);
        let parsed: SocketAddr = address
            .parse()
            .map_err(|_| refuse("is no address; 127.0.0.1:9187 is one"))?;
        if !parsed.ip().is_loopback() {
            // It has no password and no encryption.
            return Err(refuse(
                "is not of this machine alone; 127.0.0.1:PORT or [::1]:PORT is expected",
            ));
        }
        let bound = std::net::TcpListener::bind(parsed).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(Server(listener))
        });
        bound.map_err(|e| refuse(&format!("cannot be listened on: {e}")))
    }

    /// Answers until `stop` is true. Inside a tokio runtime.
    ///
    /// # Errors
    /// [`AgentError::Start`] if the runtime does not take it.
    pub(crate) fn start(
        self,
        monitor: Arc<Monitor>,
        engine: Arc<dyn Engine>,
        device: &str,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let listener = TcpListener::from_std(self.0).map_err(|e| AgentError::Start {
            what: "metrics",
            reason: e.to_string(),
        })?;
        let shared = Shared {
            monitor,
            engine,
            device: device.into(),
        };
        let router = Router::new()
            .route("/metrics", get(show_metrics))
            .route("/health", get(show_health))
            .with_state(shared);
        tokio::spawn(async move {
            let stopped = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            tokio::select! {
                served = async { axum::serve(listener, router).await } => {
                    if let Err(e) = served {
                        tracing::error!("metrics: {e}");
                    }
                }
                // A connection that is kept open does not hold up the end.
                () = stopped => {}
            }
        });
        Ok(())
    }
}

async fn show_metrics(State(shared): State<Shared>) -> Response {
    match metrics::text(&shared.monitor, &shared.engine.model(), &shared.device) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn show_health(State(shared): State<Shared>) -> Response {
    let health = shared.monitor.health();
    let status = match health.healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(health)).into_response()
}
