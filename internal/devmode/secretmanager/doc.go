// Package secretmanager is an in-process fake of the parts of Google Cloud that a broker
// uses: the method of Secret Manager that reads a version of a secret, global and regional,
// the methods of Pub/Sub that receive its notifications of changes, and the four endpoints
// that issue access tokens for them (OAuth 2.0, Security Token Service, IAM Service Account
// Credentials, the metadata server). It is for development and tests. A test that passes
// against it proves nothing about the real store.
//
// It simulates what a client can observe: REST with protobuf's JSON mapping, project numbers
// in answers to requests with project IDs, checksums, "latest" as the newest version whatever
// its state, aliases, the status, code, reason and message of each error, and 403 instead of
// 404 for callers without a role on the project. It verifies the signatures of service
// accounts' assertions, tokens expire, and an identity can read only what it is a reader of.
// Google's own client works against it, provided that it connects to the fake for the hosts
// of *.googleapis.com.
//
// Differences from the real store:
//   - It only accesses versions: no gRPC, no writing, listing, rotation, or deletion by
//     expiry. Roles are lists of readers.
//   - Every subscription of Pub/Sub gets the notifications of all secrets, as soon as the State
//     is replaced or a request finds the file changed. Their messages have no data. There is no
//     dead lettering, and none of the methods that create topics or subscriptions.
//   - There is no throttling; only a project's fault setting simulates failures.
//   - A subject token of workload identity federation is not verified: the fake accepts
//     exactly the configured texts.
//   - Payloads are text, or base64 in the file or State, and stay in memory: do not use real
//     secrets.
//
// It imports no package of the broker, so that the two cannot share a mistake.
package secretmanager
