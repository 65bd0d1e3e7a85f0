package azurekv

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	queueHost = "account1.queue.core.windows.net"
	queueURL  = "https://" + queueHost + "/events"
	// ownClient is the application of the queue's own identity.
	ownClient = "11111111-2222-3333-4444-555555555555"
)

// storageQueue is a queue of Azure Storage.
type storageQueue struct {
	*fake
	mu       sync.Mutex
	messages []*queued
	requests []string // method and path with the query of each request with a token
	refused  bool     // the current tokens get a 401
	// trouble, if not nil, answers requests.
	trouble http.HandlerFunc
	// challenge is the header with a 401.
	challenge string
}

// queued is a message in the queue.
type queued struct {
	XMLName         xml.Name `xml:"QueueMessage"`
	MessageID       string   `xml:"MessageId"`
	InsertionTime   string
	ExpirationTime  string
	PopReceipt      string
	TimeNextVisible string
	DequeueCount    int
	MessageText     string
	hidden          bool
}

func newStorageQueue(t testing.TB) *storageQueue {
	q := &storageQueue{fake: newFake(t), challenge: `Bearer authorization_uri=https://` + loginHost + `/` + tenantID + `/oauth2/authorize resource_id=https://storage.azure.com`}
	q.serve(queueHost, q.Certificate("*.queue.core.windows.net"), q.serveQueue)
	return q
}

// sent is when all messages were put into the queue.
var sent = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func (q *storageQueue) put(texts ...string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, text := range texts {
		q.messages = append(q.messages, &queued{
			MessageID: fmt.Sprintf("5974b586-0df3-4e2d-ad0c-%012d", len(q.messages)+1), MessageText: text,
			InsertionTime: sent.Format(http.TimeFormat), ExpirationTime: sent.AddDate(0, 0, 7).Format(http.TimeFormat),
		})
	}
}

func (q *storageQueue) left() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.messages)
}

func (q *storageQueue) serveQueue(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fake.mu.Lock()
	refused := q.fake.refused[token]
	q.fake.mu.Unlock()
	if !strings.HasPrefix(token, "access-token-") || refused || r.Header.Get("X-Ms-Version") == "" {
		w.Header().Set("WWW-Authenticate", q.challenge)
		queueFailure(w, http.StatusUnauthorized, "InvalidAuthenticationInfo")
		return
	}
	q.requests = append(q.requests, r.Method+" "+r.URL.Path+"?"+r.URL.RawQuery)
	if q.trouble != nil {
		q.trouble(w, r)
		return
	}
	switch id, isMessage := strings.CutPrefix(r.URL.Path, "/events/messages/"); {
	case r.Method == http.MethodGet && r.URL.Path == "/events/messages":
		q.get(w, r)
	case r.Method == http.MethodDelete && isMessage:
		q.remove(w, id, r.URL.Query().Get("popreceipt"))
	default:
		queueFailure(w, http.StatusNotFound, "QueueNotFound")
	}
}

func (q *storageQueue) get(w http.ResponseWriter, r *http.Request) {
	most, _ := strconv.Atoi(r.URL.Query().Get("numofmessages"))
	var list struct {
		XMLName  xml.Name `xml:"QueueMessagesList"`
		Messages []*queued
	}
	for _, m := range q.messages {
		if m.hidden || len(list.Messages) == most {
			continue
		}
		if r.URL.Query().Get("peekonly") != "true" {
			m.hidden = true
			m.DequeueCount++
			m.PopReceipt = fmt.Sprintf("receipt/%d+==", m.DequeueCount)
			m.TimeNextVisible = sent.Add(time.Minute).Format(http.TimeFormat)
		}
		list.Messages = append(list.Messages, m)
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(list)
}

func (q *storageQueue) remove(w http.ResponseWriter, id, receipt string) {
	i := slices.IndexFunc(q.messages, func(m *queued) bool { return m.MessageID == id })
	switch {
	case i < 0:
		queueFailure(w, http.StatusNotFound, "MessageNotFound")
	case q.messages[i].PopReceipt != receipt:
		queueFailure(w, http.StatusBadRequest, "PopReceiptMismatch")
	default:
		q.messages = slices.Delete(q.messages, i, i+1)
		w.WriteHeader(http.StatusNoContent)
	}
}

// queueFailure is an error response of Azure Storage, which quotes a message.
func queueFailure(w http.ResponseWriter, status int, code string) {
	w.Header().Set("X-Ms-Error-Code", code)
	w.Header().Set("X-Ms-Request-Id", "request-7")
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="utf-8"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, canary)
}

// source opens the source of an integration. It does not wait between requests.
func (q *storageQueue) source(change func(*Settings)) *queue {
	q.Helper()
	in := q.integration()
	settingsOf(in).Events = EventSettings{QueueURL: queueURL}
	if change != nil {
		change(settingsOf(in))
	}
	s, err := openQueue(q.Context(), q.Config(), in)
	providertest.Must(q, err)
	q.Cleanup(func() { providertest.Must(q, s.Close()) })
	s.wait = func(ctx context.Context, _ time.Duration) bool { return ctx.Err() == nil }
	return s
}

// ownIdentity gives the queue an identity of its own.
func (q *storageQueue) ownIdentity(a *Settings) {
	a.Events.TenantID, a.Events.ClientID = tenantID, ownClient
	a.Events.Credential = Credential{Type: ClientSecret, ClientSecretFile: providertest.WriteFile(q, "events", testSecret)}
}

func (q *storageQueue) receive(s *queue) []provider.EventMessage {
	q.Helper()
	messages, err := s.Receive(q.Context())
	providertest.Must(q, err)
	return messages
}

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

// TestQueueIdentity: the token is for Azure Storage, of the queue's own identity if it has
// one, and is renewed when the queue refuses it.
func TestQueueIdentity(t *testing.T) {
	for _, own := range []bool{false, true} {
		q := newStorageQueue(t)
		change, client := (func(*Settings))(nil), clientID
		if own {
			change, client = q.ownIdentity, ownClient
		}
		s := q.source(change)
		q.put("{}")
		q.receive(s)
		q.refuse()
		q.put("{}")
		if got := q.receive(s); len(got) != 1 {
			t.Errorf("after the renewal: %d messages", len(got))
		}
		if issued, reads := q.counts(); issued != 2 || reads != 0 {
			t.Errorf("%d tokens were issued, and the vault was read %d times", issued, reads)
		}
		for _, form := range q.forms {
			if form.Get("client_id") != client || !strings.Contains(form.Get("scope"), storageScope) {
				t.Errorf("a token request of %s for %s", form.Get("client_id"), form.Get("scope"))
			}
		}
	}
}

// TestQueueObtainsNoOtherToken: a server in the queue's position that asks for a token for
// the vaults gets none.
func TestQueueObtainsNoOtherToken(t *testing.T) {
	q := newStorageQueue(t)
	q.challenge = `Bearer authorization_uri=https://` + loginHost + `/` + tenantID + `/oauth2/authorize resource_id=https://vault.azure.net`
	s := q.source(nil)
	q.put("{}")
	q.receive(s)
	q.refuse()
	s.renewed = time.Now() // no new credential
	_, err := s.Receive(t.Context())
	if e := q.CheckError(err, secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, "refuses the access token of the integration's identity") {
		t.Error(e.Message)
	}
	for _, form := range q.forms {
		if strings.Contains(form.Get("scope"), "vault") {
			t.Errorf("a token for %s was requested", form.Get("scope"))
		}
	}
}

func TestQueueCheck(t *testing.T) {
	const events = "events of " + queueURL
	for name, tt := range map[string]struct {
		own     bool
		trouble http.HandlerFunc
		token   http.HandlerFunc
		want    string
		text    string
	}{
		"in order": {false, nil, nil, events + " ok", "was not tested"},
		"own":      {true, nil, nil, "token ok, " + events + " ok", "was not tested"},
		"no role": {true, func(w http.ResponseWriter, _ *http.Request) { queueFailure(w, 403, "AuthorizationPermissionMismatch") }, nil,
			"token ok, " + events + " STORE_ACCESS_DENIED", "the identity of azure.events.credential may not receive"},
		"own secret wrong": {true, nil, wrongSecret, "token STORE_AUTHENTICATION_FAILED, " + events + " skipped", "azure.events.credential.client_secret_file"},
		"secret wrong":     {false, nil, wrongSecret, events + " STORE_AUTHENTICATION_FAILED", "into azure.credential.client_secret_file"},
	} {
		t.Run(name, func(t *testing.T) {
			q := newStorageQueue(t)
			q.put(canary)
			q.trouble = tt.trouble
			if tt.token != nil {
				q.token = tt.token
			}
			change := (func(*Settings))(nil)
			if tt.own {
				change = q.ownIdentity
			}
			steps := q.source(change).Check(t.Context())
			if got := providertest.Steps(steps); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			text := ""
			for _, step := range steps {
				text += step.Found
				if step.Err != nil {
					text += secret.AsError(step.Err).Message
					q.CheckClean("a step", step.Err.Error())
				}
			}
			if !strings.Contains(text, tt.text) {
				t.Errorf("%q, want %q", text, tt.text)
			}
			if q.messages[0].DequeueCount != 0 {
				t.Error("a message was received")
			}
		})
	}
}

func wrongSecret(w http.ResponseWriter, _ *http.Request) {
	providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret"}`)
}

// TestOpenQueue: settings and files that cannot be used, by the names that people wrote.
func TestOpenQueue(t *testing.T) {
	q := newStorageQueue(t)
	for name, tt := range map[string]struct {
		change func(*Settings)
		want   string
	}{
		"no source":       {func(a *Settings) { a.Events.QueueURL = "" }, "azure.events.queue_url is not set"},
		"no file":         {func(a *Settings) { q.ownIdentity(a); a.Events.Credential.ClientSecretFile += "x" }, "azure.events.credential.client_secret_file"},
		"no client":       {func(a *Settings) { q.ownIdentity(a); a.Events.ClientID = "" }, "azure.events.client_id is missing"},
		"no certificate":  {func(a *Settings) { q.ownIdentity(a); a.Events.Credential.Type = ClientCertificate }, "azure.events.credential.certificate_file"},
		"no token":        {func(a *Settings) { q.ownIdentity(a); a.Events.Credential.Type = WorkloadIdentity }, "azure.events.credential.token_file"},
		"no type":         {func(a *Settings) { q.ownIdentity(a); a.Events.Credential.Type = "x" }, "azure.events.credential.type is not one of"},
		"roots that fail": {func(a *Settings) { a.CAFile += "x" }, "azure.ca_file"},
	} {
		in := q.integration()
		settingsOf(in).Events = EventSettings{QueueURL: queueURL}
		tt.change(settingsOf(in))
		source, err := EventOpener(q.Config())(t.Context(), in)
		if source != nil {
			t.Errorf("%s: opened", name)
		}
		if e := q.CheckError(err, secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, tt.want) {
			t.Errorf("%s: %s", name, e.Message)
		}
	}
	if _, err := EventOpener(q.Config())(t.Context(), &integration.Integration{}); err == nil {
		t.Error("opened without settings")
	}
}

// TestQueueOrigins: requests with messages go to the queue's host only, and the vaults'
// client has no access to it.
func TestQueueOrigins(t *testing.T) {
	q := newStorageQueue(t)
	if got := q.source(nil).queueHTTP.Transport.(*recorder).next.Origins(); !slices.Equal(got, []string{"https://" + queueHost}) {
		t.Errorf("the queue's client sends to %v", got)
	}
	in := q.integration()
	settingsOf(in).Events = EventSettings{QueueURL: queueURL}
	if got := q.open(q.Config(), in).vaultHTTP.Transport.(*recorder).next.Origins(); slices.Contains(got, "https://"+queueHost) {
		t.Errorf("the vaults' client sends to %v", got)
	}
}
