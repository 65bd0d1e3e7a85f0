package azurekv

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestReceive(t *testing.T) {
	q := newStorageQueue(t)
	event := base64.StdEncoding.EncodeToString([]byte(eventWith("SecretNewVersionCreated", `{"Id":"`+vaultURL+`/secrets/db/`+version1+`"}`)))
	for range 11 {
		q.put(event)
	}
	q.put(canary)
	s := q.source(nil)
	first := q.receive(s)
	if len(first) != receiveMax {
		t.Fatalf("%d messages", len(first))
	}
	want := provider.EventMessage{ID: "5974b586-0df3-4e2d-ad0c-000000000001", Handle: delivery{"5974b586-0df3-4e2d-ad0c-000000000001", "receipt/1+=="}, Deliveries: 1, SentAt: sent, Events: []provider.Event{{
		Store: vaultURL, Name: "db", Version: version1, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Type: "Microsoft.KeyVault.SecretNewVersionCreated",
	}}}
	if diff := cmp.Diff(want, first[0], cmp.AllowUnexported(delivery{})); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(strings.Join(q.requests, "\n"), "visibilitytimeout=60") {
		t.Errorf("requests %v", q.requests)
	}
	providertest.Must(t, s.Acknowledge(t.Context(), first))
	rest := q.receive(s)
	if q.left() != 2 || len(rest) != 2 || rest[1].Problem == "" || rest[1].Events != nil {
		t.Errorf("%d are left, and %+v was received", q.left(), rest)
	}
	q.CheckClean("the problem", rest[1].Problem)
	if none := q.receive(s); none != nil {
		t.Errorf("hidden messages were received: %+v", none)
	}
}

// TestReceiveWaits: the interval of requests is short for a while after a message, and
// Receive returns in time.
func TestReceiveWaits(t *testing.T) {
	q := newStorageQueue(t)
	s := q.source(nil)
	var waits []time.Duration
	s.wait = func(_ context.Context, d time.Duration) bool {
		waits = append(waits, d)
		return true
	}
	sum := func(d time.Duration) (total time.Duration) {
		for _, w := range waits {
			if w != d {
				t.Errorf("waited %v", w)
			}
			total += w
		}
		waits = nil
		return total
	}
	q.receive(s)
	if total := sum(idlePoll); total != receiveTime {
		t.Errorf("waited %v for a message", total)
	}
	q.put("{}")
	q.receive(s)
	if waits != nil {
		t.Errorf("waited %v with a message in the queue", waits)
	}
	q.receive(s)
	if total := sum(quickPoll); total != receiveTime {
		t.Errorf("waited %v after a message", total)
	}
	q.receive(s)
	if got := waits[len(waits)-1]; got != idlePoll || waits[0] != quickPoll {
		t.Errorf("waits %v", waits)
	}
	s.wait = func(context.Context, time.Duration) bool { return false }
	if messages, err := s.Receive(t.Context()); messages != nil || err != nil {
		t.Errorf("at the end of the context: %v, %v", messages, err)
	}
}

func TestPause(t *testing.T) {
	if !pause(t.Context(), time.Millisecond) {
		t.Error("the time is over, and the context is not")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if pause(ctx, time.Hour) {
		t.Error("waited beyond the context")
	}
}

func TestQueueErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		code   string
		want   secret.Reason
		text   string
	}{
		"no queue":        {404, "QueueNotFound", secret.ReasonStoreNotFound, "there is no queue " + queueURL},
		"no role":         {403, "AuthorizationPermissionMismatch", secret.ReasonStoreAccessDenied, `assign it the role "Storage Queue Data Message Processor"`},
		"network rules":   {403, "AuthorizationFailure", secret.ReasonStoreAccessDenied, "the network rules"},
		"disabled":        {403, "AccountIsDisabled", secret.ReasonStoreAccessDenied, "denies the integration's identity access"},
		"authentication":  {403, "AuthenticationFailed", secret.ReasonStoreAuthenticationFailed, "check that azure.tenant_id is the tenant"},
		"busy":            {503, "ServerBusy", secret.ReasonStoreThrottled, "throttles"},
		"too many":        {429, "TooManyRequests", secret.ReasonStoreThrottled, "throttles"},
		"failing":         {500, "InternalError", secret.ReasonStoreUnavailable, "is failing (HTTP 500)"},
		"another answer":  {409, canary + "!", secret.ReasonStoreUnavailable, "HTTP 409"},
		"a redirect":      {307, "", secret.ReasonStoreUnavailable, "HTTP 307"},
		"another success": {204, "", secret.ReasonStoreUnavailable, "HTTP 204"},
	} {
		t.Run(name, func(t *testing.T) {
			q := newStorageQueue(t)
			q.trouble = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://"+strangers+"/")
				if tt.status == http.StatusNoContent {
					w.WriteHeader(tt.status)
					return
				}
				queueFailure(w, tt.status, tt.code)
			}
			s := q.source(nil)
			_, err := s.Receive(t.Context())
			e := q.CheckError(err, tt.want)
			if !strings.Contains(e.Message, tt.text) {
				t.Errorf("%s, want %s", e.Message, tt.text)
			}
			if (tt.want == secret.ReasonStoreThrottled) != (e.RetryAfter > 0) {
				t.Errorf("retry after %v", e.RetryAfter)
			}
			if len(q.elsewhere) > 0 {
				t.Error("the redirect was followed")
			}
		})
	}
}

// TestQueueGarbles: responses that are not of a queue, and quote a message.
func TestQueueGarbles(t *testing.T) {
	for name, body := range map[string]string{
		"HTML":     "<html>" + canary, // not closed
		"half":     "<QueueMessagesList><QueueMessage><MessageText>" + canary,
		"a number": "<QueueMessagesList><QueueMessage><DequeueCount>" + canary + "</DequeueCount></QueueMessage></QueueMessagesList>",
		"a time":   "<QueueMessagesList><QueueMessage><InsertionTime>" + canary + "</InsertionTime></QueueMessage></QueueMessagesList>",
		"huge":     strings.Repeat("x", maxMessages+1),
	} {
		t.Run(name, func(t *testing.T) {
			q := newStorageQueue(t)
			q.trouble = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
			_, err := q.source(nil).Receive(t.Context())
			q.CheckError(err, secret.ReasonStoreUnavailable)
		})
	}
	q := newStorageQueue(t) // messages that cannot be deleted, because they have no id or one that is a path
	q.trouble = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<QueueMessagesList><QueueMessage/><QueueMessage><MessageId>../x</MessageId><PopReceipt>r</PopReceipt></QueueMessage>"+
			"<QueueMessage><MessageId>a-1</MessageId><PopReceipt>r</PopReceipt></QueueMessage></QueueMessagesList>")
	}
	if got := q.receive(q.source(nil)); len(got) != 1 || got[0].ID != "a-1" || got[0].Problem == "" {
		t.Errorf("%+v", got)
	}
}

// TestBiggestMessages: a response with the biggest messages can be read, so that they cannot
// stop the others.
func TestBiggestMessages(t *testing.T) {
	q := newStorageQueue(t)
	for range receiveMax {
		q.put(strings.Repeat(`"`, 64<<10))
	}
	s := q.source(nil)
	got := q.receive(s)
	if len(got) != receiveMax {
		t.Fatalf("%d messages", len(got))
	}
	providertest.Must(t, s.Acknowledge(t.Context(), got))
	if q.left() != 0 {
		t.Errorf("%d are left", q.left())
	}
}

func TestAcknowledge(t *testing.T) {
	q := newStorageQueue(t)
	q.put("{}", "{}", "{}")
	s := q.source(nil)
	got := q.receive(s)
	q.messages = q.messages[:2]                      // another replica deleted the last one,
	q.messages[1].PopReceipt = "of a later delivery" // and received the second one
	providertest.Must(t, s.Acknowledge(t.Context(), got))
	if q.left() != 1 || q.messages[0].MessageID != got[1].ID {
		t.Errorf("%d are left", q.left())
	}
	providertest.Must(t, s.Acknowledge(t.Context(), nil))
	q.trouble = func(w http.ResponseWriter, _ *http.Request) { queueFailure(w, 404, "QueueNotFound") }
	q.CheckError(s.Acknowledge(t.Context(), got), secret.ReasonStoreNotFound)
}

// TestQueueUnreachable: outages of the queue, and the end of a context.
func TestQueueUnreachable(t *testing.T) {
	q := newStorageQueue(t)
	q.Dial[queueHost] = providertest.ClosedPort(t)
	_, err := q.source(nil).Receive(t.Context())
	if e := q.CheckError(err, secret.ReasonStoreUnavailable); !strings.Contains(e.Message, "the queue on "+queueHost+" refuses the connection") {
		t.Error(e.Message)
	}
	silent := newStorageQueue(t)
	ctx, cancel := context.WithCancel(t.Context())
	silent.trouble = func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}
	_, err = silent.source(nil).Receive(ctx)
	silent.CheckError(err, secret.ReasonStoreUnavailable)
}
