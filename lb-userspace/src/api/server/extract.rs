//! Reading a request, so that whatever is wrong with it comes out as an [`ApiError`] with a hint.
//!
//! [`ApiError`]: crate::api::types::ApiError

use std::fmt::Display;

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use super::Failure;

/// A JSON body. The content type does not matter, so that plain `curl -d` works.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            rejected(rejection, "a request body of this API is a few hundred bytes of JSON")
        })?;
        let body = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::bad_input(format!("the request body is not what this route takes: {error}")).hint(
                "the fields of each body are listed in the API reference, and `lb --help` has the same words",
            )
        })?;
        Ok(Self(body))
    }
}

/// axum's own extractor of a path or a query, with its rejection made a [`Failure`].
pub(super) struct Checked<E>(pub(super) E);

impl<S, E> FromRequestParts<S> for Checked<E>
where
    S: Send + Sync,
    E: FromRequestParts<S, Rejection: Display>,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        E::from_request_parts(parts, state).await.map(Self).map_err(|rejection| {
            rejected(
                rejection,
                "names and ADDRESS:PORT in a path are percent-encoded (`/` is %2F); filters are \
                 service, backend, client, state and limit",
            )
        })
    }
}

fn rejected(rejection: impl Display + IntoResponse, hint: &str) -> Failure {
    let message = rejection.to_string();
    let status = rejection.into_response().status();
    Failure::new(status.as_u16(), message).hint(hint)
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { status, error } = self;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(error)).into_response()
    }
}
