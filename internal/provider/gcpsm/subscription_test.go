package gcpsm

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// withEvents returns an integration that receives events with the identity that reads.
func (f *fake) withEvents() *integration.Integration {
	in := f.integration()
	settingsOf(in).Events = &Events{Subscription: eventsOf, Host: pubsubHost}
	return in
}

// subscribe opens the integration's source until the test ends.
func (f *fake) subscribe(in *integration.Integration, poll time.Duration) *subscription {
	f.Helper()
	s, err := subscribe(f.Context(), f.Config(), in, poll)
	providertest.Must(f, err)
	f.Cleanup(func() { providertest.Must(f, s.Close()) })
	return s
}

// receive returns the messages that arrive within a minute.
func (f *fake) receive(s *subscription) []provider.EventMessage {
	f.Helper()
	for range 60 {
		messages, err := s.Receive(f.Context())
		providertest.Must(f, err)
		if len(messages) > 0 {
			return messages
		}
	}
	f.Fatal("no message arrived")
	return nil
}

func addVersion(_ *secretmanager.State, p *secretmanager.Project) {
	db := p.Secrets["db"]
	db.Versions = append(db.Versions, secretmanager.Version{Value: canary})
}

// TestReceive: a change of a secret arrives as an event, with the project's ID although the
// message has the number, and does not arrive again after it was acknowledged.
func TestReceive(t *testing.T) {
	f := newFake(t)
	in := f.withEvents()
	f.Gives(f.open(f.Config(), in), project+"/secrets/db", canary) // so that the number is known
	s := f.subscribe(in, time.Second)
	began := time.Now()
	f.change(addVersion)
	messages := f.receive(s)
	if len(messages) != 1 || messages[0].ID == "" || messages[0].SentAt.Before(began.Add(-time.Second)) || messages[0].Problem != "" {
		t.Fatalf("messages %+v", messages)
	}
	want := []provider.Event{{Store: project, Name: "db", Version: "3", Type: "SECRET_VERSION_ADD", At: messages[0].Events[0].At}}
	if diff := cmp.Diff(want, messages[0].Events); diff != "" || want[0].At.IsZero() {
		t.Error(diff)
	}
	providertest.Must(t, s.Acknowledge(t.Context(), messages))
	f.change(func(_ *secretmanager.State, p *secretmanager.Project) {
		p.Secrets["db"].Versions[2].State = "DISABLED"
		p.Locations["europe-west3"]["db"].Aliases = map[string]int{"x": 1}
	})
	second := f.receive(s)
	for len(second) < 2 {
		second = append(second, f.receive(s)...)
	}
	want = []provider.Event{
		{Store: project, Name: "db", Label: provider.AnyLabel, Type: "SECRET_VERSION_DISABLE"},
		{Store: regional, Name: "db", Label: provider.AnyLabel, Type: "SECRET_UPDATE"},
	}
	for i, m := range second {
		m.Events[0].At = time.Time{}
		if diff := cmp.Diff(want[i:i+1], m.Events); diff != "" {
			t.Error(diff)
		}
	}
	providertest.Must(t, s.Acknowledge(t.Context(), second))
	if messages, err := s.Receive(t.Context()); len(messages) != 0 || err != nil {
		t.Errorf("received again: %+v, %v", messages, err)
	}
}

// What the broker asks Pub/Sub for: no data, a bounded wait, and time to handle the messages.
func TestReceiveRequests(t *testing.T) {
	f := newFake(t)
	s := f.subscribe(f.withEvents(), 7*time.Second)
	var mu sync.Mutex
	var got []string
	f.intercept(pubsubHost, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		got = append(got, r.Method+" "+r.URL.String()+" "+r.Header.Get("X-Server-Timeout")+" "+string(body))
		mu.Unlock()
		if strings.Contains(r.URL.Path, ":pull") {
			fmt.Fprint(w, `{"receivedMessages": [{"ackId": "a", "deliveryAttempt": 3, "message": {"messageId": "1", "publishTime": "2026-01-20T11:17:45.5Z", "attributes": {"eventType": "TOPIC_CONFIGURED"}}}]}`)
			return
		}
		fmt.Fprint(w, `{}`)
	})
	messages := f.receive(s)
	want := provider.EventMessage{ID: "1", Handle: "a", Deliveries: 3, SentAt: time.Date(2026, 1, 20, 11, 17, 45, 500000000, time.UTC)}
	if diff := cmp.Diff([]provider.EventMessage{want}, messages); diff != "" {
		t.Error(diff)
	}
	providertest.Must(t, s.Acknowledge(t.Context(), messages))
	providertest.Must(t, s.Acknowledge(t.Context(), nil))
	const path = "POST /v1/" + eventsOf
	if diff := cmp.Diff([]string{
		path + `:pull?fields=receivedMessages%28ackId%2CdeliveryAttempt%2Cmessage%28attributes%2CmessageId%2CpublishTime%29%29 7 {"maxMessages":10}`,
		path + `:modifyAckDeadline 7 {"ackDeadlineSeconds":60,"ackIds":["a"]}`,
		path + `:acknowledge 7 {"ackIds":["a"]}`,
	}, got); diff != "" {
		t.Error(diff)
	}
}

// A message that cannot be understood does not affect others.
func TestReceiveOddMessages(t *testing.T) {
	f := newFake(t)
	s := f.subscribe(f.withEvents(), time.Second)
	f.intercept(pubsubHost, func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, ":pull") {
			w.WriteHeader(http.StatusInternalServerError) // the messages are received nevertheless
			return
		}
		fmt.Fprintf(w, `{"receivedMessages": [
			{"ackId": "a", "message": {"attributes": {"eventType": ["%[1]s"]}, "messageId": "1"}},
			{"ackId": "b", "message": {"attributes": {"eventType": "%[1]s"}, "messageId": "2", "data": "%[1]s", "orderingKey": "x"}},
			{"ackId": 7, "message": {"messageId": "3"}}, null, {},
			{"ackId": "c", "message": {"attributes": {"eventType": "SECRET_DELETE", "secretId": %[2]q}, "messageId": "4"}},
			{"ackId": "d"}]}`, canary, project+"/secrets/db")
	})
	var got []string
	for _, m := range f.receive(s) {
		got = append(got, fmt.Sprint(m.Handle, " ", m.Problem, " ", len(m.Events)))
	}
	if diff := cmp.Diff([]string{
		"a the message has another form than those of Pub/Sub 0",
		"b the attribute eventType is not one of Secret Manager 0",
		"c  1",
		"d the message has no attribute eventType 0",
	}, got); diff != "" {
		t.Error(diff)
	}
	f.CheckClean("the log", f.Logs.String())
}

func TestReceiveFaults(t *testing.T) {
	respond := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for name, tt := range map[string]struct {
		hook   http.HandlerFunc
		reason secret.Reason // "" for no message and no error
		says   string
	}{
		"no subscription":      {respond(404, apiBody(404, "NOT_FOUND", canary, "")), secret.ReasonStoreNotFound, "there is no subscription " + eventsOf},
		"no role":              {respond(403, apiBody(403, "PERMISSION_DENIED", canary, errorInfo("IAM_PERMISSION_DENIED"))), secret.ReasonStoreAccessDenied, "roles/pubsub.subscriber"},
		"API disabled":         {respond(403, apiBody(403, "PERMISSION_DENIED", canary, errorInfo("SERVICE_DISABLED"))), secret.ReasonStoreNotFound, "gcloud services enable pubsub.googleapis.com"},
		"perimeter":            {respond(403, apiBody(403, "PERMISSION_DENIED", canary, errorInfo("SECURITY_POLICY_VIOLATED"))), secret.ReasonStoreAccessDenied, "perimeter"},
		"billing":              {respond(403, apiBody(403, "PERMISSION_DENIED", canary, errorInfo("BILLING_DISABLED"))), secret.ReasonStoreAccessDenied, "billing"},
		"no project":           {respond(403, apiBody(403, "PERMISSION_DENIED", canary, errorInfo("CONSUMER_INVALID"))), secret.ReasonStoreNotFound, "no project"},
		"machine's scopes":     {respond(403, apiBody(403, "PERMISSION_DENIED", canary, errorInfo("ACCESS_TOKEN_SCOPE_INSUFFICIENT"))), secret.ReasonStoreAccessDenied, "access scopes"},
		"not a pull":           {respond(400, apiBody(400, "FAILED_PRECONDITION", canary, "")), secret.ReasonStoreNotFound, "pull subscription"},
		"invalid":              {respond(400, apiBody(400, "INVALID_ARGUMENT", canary, "")), secret.ReasonStoreNotFound, "gcp.events.subscription"},
		"token refused":        {respond(401, apiBody(401, "UNAUTHENTICATED", canary, "")), secret.ReasonStoreAuthenticationFailed, "identity for events"},
		"throttled":            {respond(429, apiBody(429, "RESOURCE_EXHAUSTED", canary, "")), secret.ReasonStoreThrottled, "throttles"},
		"failing":              {respond(503, apiBody(503, "UNAVAILABLE", canary, "")), secret.ReasonStoreUnavailable, "is failing"},
		"a gateway's timeout":  {respond(504, "<html>"+canary), secret.ReasonStoreUnavailable, "is failing"},
		"Pub/Sub's timeout":    {respond(504, apiBody(504, "DEADLINE_EXCEEDED", canary, "")), "", ""},
		"nothing":              {respond(200, `{}`), "", ""},
		"no JSON":              {respond(200, canary), secret.ReasonStoreUnavailable, "proxy"},
		"another JSON":         {respond(200, `{"receivedMessages": "`+canary+`"}`), secret.ReasonStoreUnavailable, "proxy"},
		"no usable message":    {respond(200, `{"receivedMessages": [{}]}`), secret.ReasonStoreUnavailable, "proxy"},
		"a redirect":           {respond(302, ""), secret.ReasonStoreUnavailable, "redirect"},
		"another success":      {respond(204, ""), secret.ReasonStoreUnavailable, "proxy"},
		"a broken connection":  {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, secret.ReasonStoreUnavailable, pubsubHost},
		"too large a response": {respond(200, `"`+strings.Repeat("x", maxPollBody)+`"`), secret.ReasonStoreUnavailable, pubsubHost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			s := f.subscribe(f.withEvents(), time.Second)
			f.intercept(pubsubHost, tt.hook)
			began := time.Now()
			messages, err := s.Receive(t.Context())
			if len(messages) > 0 || (err == nil) != (tt.reason == "") {
				t.Fatalf("Receive = %+v, %v", messages, err)
			}
			if name == "nothing" && time.Since(began) < emptyPause {
				t.Error("Receive returned at once, and would be called in a loop")
			}
			if err != nil {
				if e := f.CheckError(err, tt.reason); !strings.Contains(e.Message, tt.says) {
					t.Errorf("%q does not say %q", e.Message, tt.says)
				}
			}
		})
	}
}

// A server that does not respond at all is an outage, unless Pub/Sub still responds to
// something else: it may then only wait longer for a message.
func TestReceiveSilence(t *testing.T) {
	for alive, timeout := range map[bool]time.Duration{true: 3 * time.Second, false: time.Second} {
		t.Run(fmt.Sprint(alive), func(t *testing.T) {
			t.Parallel() // it waits
			f := newFake(t)
			cfg := f.Config()
			cfg.TryTimeout = timeout
			in := f.withEvents()
			s, err := subscribe(t.Context(), cfg, in, 0)
			providertest.Must(t, err)
			defer s.Close()
			f.intercept(pubsubHost, func(w http.ResponseWriter, r *http.Request) {
				if alive && strings.HasSuffix(r.URL.Path, ":testIamPermissions") {
					fmt.Fprint(w, `{"permissions": ["`+consume+`"]}`)
					return
				}
				_, _ = io.ReadAll(r.Body) // so that the server notices the end of the request
				<-r.Context().Done()
			})
			_, err = s.tokens.Get(t.Context())
			providertest.Must(t, err)
			messages, err := s.Receive(t.Context())
			if len(messages) > 0 || (err == nil) != alive {
				t.Errorf("alive %v: Receive = %+v, %v", alive, messages, err)
			}
			if err != nil {
				f.CheckError(err, secret.ReasonStoreUnavailable)
			}
		})
	}
}

// Pub/Sub with exactly-once delivery refuses an acknowledgement that comes too late.
func TestAcknowledgeFaults(t *testing.T) {
	for status, want := range map[int]struct {
		code   string
		reason secret.Reason
		says   string
	}{
		400: {"FAILED_PRECONDITION", secret.ReasonStoreUnavailable, "will deliver them again"},
		403: {"PERMISSION_DENIED", secret.ReasonStoreAccessDenied, "roles/pubsub.subscriber"},
		503: {"UNAVAILABLE", secret.ReasonStoreUnavailable, "is failing"},
	} {
		f := newFake(t)
		s := f.subscribe(f.withEvents(), time.Second)
		f.intercept(pubsubHost, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, apiBody(status, want.code, canary, ""))
		})
		err := s.Acknowledge(t.Context(), []provider.EventMessage{{Handle: "a"}})
		if err == nil {
			t.Fatalf("%d: acknowledged", status)
		}
		if e := f.CheckError(err, want.reason); !strings.Contains(e.Message, want.says) {
			t.Errorf("%d: %q does not say %q", status, e.Message, want.says)
		}
	}
}

func TestReceiveEnds(t *testing.T) {
	f := newFake(t)
	s := f.subscribe(f.withEvents(), time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	f.intercept(pubsubHost, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		cancel()
		<-r.Context().Done()
	})
	if messages, err := s.Receive(ctx); len(messages) > 0 || err != nil {
		t.Errorf("Receive = %+v, %v", messages, err)
	}
}
