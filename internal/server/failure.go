package server

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// An error travels in the call's trailers: the message twice, and the details in base64.
// Some clients accept only 8 KiB of trailers (grpc-java and grpc-core by default); if an
// error is larger, the caller learns nothing at all. These budgets, in bytes, keep every
// error within that size. A caller that wants the errors of a hundred configs sets
// allow_partial, which puts the errors into the answer.
const (
	messageBudget   = 1000
	violationBudget = 3000
	// violationOverhead is roughly the size of a violation without its texts.
	violationOverhead = 10
)

// trouble is an error that several configs may share.
type trouble struct {
	reason  secret.Reason
	message string
}

func troubleOf(c resolve.ConfigError) trouble { return trouble{c.Err.Reason, c.Err.Message} }

// failureStatus returns the status of a call that failed for some of its configs.
func failureStatus(f *resolve.Failure, requestID string) *status.Status {
	worst := f.Configs[0].Err
	_, worstRank := rowOf(worst.Reason)
	var delay time.Duration
	for _, c := range f.Configs {
		if _, rank := rowOf(c.Err.Reason); rank < worstRank {
			worst, worstRank = c.Err, rank
		}
		delay = max(delay, retryAfter(c.Err))
	}
	if row, _ := rowOf(worst.Reason); row.retry == 0 {
		delay = 0
	}
	return newStatus(worst.Reason, failureText(f, worst.Reason), requestID, delay, violationsOf(f))
}

// violationsOf lists the failed configs with their reasons, and with as many texts as
// fit: every distinct text once before any is repeated.
func violationsOf(f *resolve.Failure) *errdetails.BadRequest {
	bad := &errdetails.BadRequest{}
	budget := violationBudget
	for i, c := range f.Configs {
		v := &errdetails.BadRequest_FieldViolation{Field: fmt.Sprintf("configs[%q]", c.Config), Reason: string(c.Err.Reason)}
		if budget -= len(v.Field) + len(v.Reason) + violationOverhead; budget < 0 {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field:       "configs",
				Description: fmt.Sprintf("%d more configs failed; set allow_partial to see all of them", len(f.Configs)-i),
			})
			break
		}
		bad.FieldViolations = append(bad.FieldViolations, v)
	}
	told := make(map[trouble]bool)
	for _, again := range []bool{false, true} {
		for i, v := range bad.FieldViolations {
			if v.GetDescription() != "" {
				continue
			}
			t := troubleOf(f.Configs[i])
			if told[t] == again && len(t.message) <= budget {
				v.Description = t.message
				told[t] = true
				budget -= len(t.message)
			}
		}
	}
	return bad
}

// failureText returns one line that lists the failed configs and their errors. It groups
// configs with the same error, and starts with the worst reason.
func failureText(f *resolve.Failure, worst secret.Reason) string {
	names := make(map[trouble][]string)
	var order []trouble
	for _, c := range f.Configs {
		t := troubleOf(c)
		if names[t] == nil {
			if t.reason == worst {
				order = append([]trouble{t}, order...)
			} else {
				order = append(order, t)
			}
		}
		names[t] = append(names[t], c.Config)
	}
	var text strings.Builder
	for i, t := range order {
		part := fmt.Sprintf("%s: %s: %s", someOf(names[t]), t.reason, t.message)
		if i > 0 && encodedLen(text.String())+encodedLen(part) > messageBudget {
			text.WriteString("; more errors in the error's details")
			break
		}
		if i > 0 {
			text.WriteString("; ")
		}
		text.WriteString(part)
	}
	return text.String()
}

// someOf joins the names, or as many of them as fit.
func someOf(names []string) string {
	const most = 200 // bytes
	length := 0
	for i, name := range names {
		if length += encodedLen(name) + 2; length > most && i > 0 {
			return fmt.Sprintf("%s and %d more", strings.Join(names[:i], ", "), len(names)-i)
		}
	}
	return strings.Join(names, ", ")
}

// encodedLen returns the length of s in the encoding of grpc-message.
func encodedLen(s string) int {
	n := 0
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			n++
		} else {
			n += 3
		}
	}
	return n
}

// failuresOf returns the failed configs of err, or err itself as a failure without a
// config name.
func failuresOf(err error) []resolve.ConfigError {
	var failure *resolve.Failure
	if errors.As(err, &failure) {
		return failure.Configs
	}
	return []resolve.ConfigError{{Err: secret.AsError(err)}}
}
