// Package secretsmanager is an in-process fake of what a broker talks to at AWS:
// the operations of Secrets Manager that read a secret, and of STS AssumeRole and
// AssumeRoleWithWebIdentity. It exists for development and tests, and a test that
// passes against it proves nothing about the real store.
//
// It is honest about what a client can see: AWS's JSON protocol and STS's XML, the
// codes of errors, ARNs with their suffixes, parts of ARNs that are completed,
// staging labels, secrets that are scheduled for deletion. Signatures (version 4)
// are verified, sessions end, the role is given to one access key with one external
// ID, and only its sessions read. AWS's own client works against it, as long as it
// connects to the fake for the hosts of *.amazonaws.com.
//
// Where it deviates from the real store:
//   - A web identity token is not verified: the one text that it was told is let in,
//     in a request without a signature.
//   - It reads secrets and does nothing else: no writing, listing, rotating,
//     batches, KMS or replication. A policy is a secret's denied setting.
//   - Version IDs follow from the secret's name and the version's number.
//   - Nothing is throttled of itself; faults are simulated by a region's fault
//     setting alone.
//   - All of it lies in memory: put nothing in that has to stay secret.
//
// It imports nothing of the broker and nothing of AWS's SDK, so that no two of them
// can agree on a mistake.
package secretsmanager
