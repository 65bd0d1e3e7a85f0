package secretmanager_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
)

const events = "projects/my-project/subscriptions/events"

type pulled struct {
	ReceivedMessages []struct {
		AckID   string `json:"ackId"`
		Message struct {
			Attributes map[string]string
			MessageID  string
		}
	}
}

// pull pulls the messages that are there. It does not wait.
func pull(t *testing.T, s http.Handler, header http.Header) (p pulled) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "https://pubsub.googleapis.com/v1/"+events+":pull", strings.NewReader(`{"maxMessages": 10}`))
	r.Header = header
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Body.Len() == 0 {
		return p
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); w.Code != 200 || err != nil {
		t.Fatalf("HTTP %d, %v", w.Code, err)
	}
	return p
}

// TestNotifications: each change of the file becomes messages with the attributes of the real
// store, which are delivered until they are acknowledged.
func TestNotifications(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	path := filepath.Join(t.TempDir(), "secrets.yaml")
	write := func(secrets string) {
		must(t, os.WriteFile(path, []byte(`{projects: {my-project: {number: "1", readers: [`+machine+`], secrets: {`+secrets+`}, locations: {eu: {regional: {versions: [{value: x}]}}}}}}`), 0o600))
	}
	write("db: {versions: [{value: one}]}, old: {}")
	state := base()
	state.Subscriptions = map[string]*secretmanager.Subscription{events: {Subscribers: []string{machine}}}
	s, err := secretmanager.Open(secretmanager.FileConfig{Path: path, Base: state, Now: func() time.Time { return now }})
	must(t, err)
	tok := bearer(machineToken(t, s))
	for _, tt := range []struct{ secrets, want string }{
		{"db: {versions: [{value: one}, {value: two}]}, old: {}", "SECRET_VERSION_ADD db 2"},
		{"db: {versions: [{value: one, state: DISABLED}, {value: two}], aliases: {a: 2}}, old: {}", "SECRET_VERSION_DISABLE db 1, SECRET_UPDATE db "},
		{"db: {versions: [{value: edited, state: DESTROYED}, {value: two}], aliases: {a: 2}}, old: {}", "SECRET_VERSION_DESTROY db 1, SECRET_UPDATE db "},
		{"db: {versions: [{value: edited}, {value: two}], aliases: {a: 2}}, fresh: {versions: [{value: x}]}", "SECRET_DELETE old , SECRET_VERSION_ENABLE db 1, SECRET_CREATE fresh , SECRET_VERSION_ADD fresh 1"},
	} {
		write(tt.secrets)
		var got, acks []string
		for _, m := range pull(t, s, tok).ReceivedMessages {
			a := m.Message.Attributes
			secret, ok := strings.CutPrefix(a["secretId"], "projects/1/secrets/")
			if !ok || a["dataFormat"] != "JSON_API_V1" || a["timestamp"] == "" || m.Message.MessageID == "" {
				t.Errorf("attributes %v", a)
			}
			got = append(got, a["eventType"]+" "+secret+" "+strings.TrimPrefix(a["versionId"], a["secretId"]+"/versions/"))
			acks = append(acks, m.AckID)
		}
		if text := strings.Join(got, ", "); text != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.secrets, text, tt.want)
		}
		if again := pull(t, s, tok).ReceivedMessages; len(again) != 0 {
			t.Errorf("delivered %d messages twice at once", len(again))
		}
		extend := func(seconds string) {
			body := `{"ackIds": ["` + strings.Join(acks, `", "`) + `"], "ackDeadlineSeconds": ` + seconds + `}`
			if status, _ := ask(s, http.MethodPost, "https://pubsub.googleapis.com/v1/"+events+":modifyAckDeadline", tok, body); status != 200 {
				t.Errorf("HTTP %d", status)
			}
		}
		extend("60")
		now = now.Add(30 * time.Second)
		if again := pull(t, s, tok).ReceivedMessages; len(again) != 0 {
			t.Errorf("delivered %d messages in the extended time", len(again))
		}
		now = now.Add(31 * time.Second)
		acks = nil
		for _, m := range pull(t, s, tok).ReceivedMessages {
			acks = append(acks, m.AckID)
		}
		if len(acks) != len(got) {
			t.Errorf("delivered %d of %d messages again", len(acks), len(got))
		}
		if status, _ := ask(s, http.MethodPost, "https://pubsub.googleapis.com/v1/"+events+":acknowledge", tok, `{"ackIds": ["`+strings.Join(acks, `", "`)+`"]}`); status != 200 {
			t.Errorf("HTTP %d", status)
		}
		extend("0")
	}
}

func TestPubSubRefused(t *testing.T) {
	state := base()
	state.Projects = project()
	state.Subscriptions = map[string]*secretmanager.Subscription{events: {Subscribers: []string{reader}}}
	s, err := secretmanager.New(&state, nil)
	must(t, err)
	tok := bearer(machineToken(t, s))
	const at = "https://pubsub.googleapis.com/v1/"
	for name, tt := range map[string]struct {
		method, target, body string
		header               http.Header
		status               int
	}{
		"no token":        {http.MethodPost, at + events + ":pull", `{"maxMessages": 1}`, nil, 401},
		"no role":         {http.MethodPost, at + events + ":pull", `{"maxMessages": 1}`, tok, 403},
		"no subscription": {http.MethodPost, at + events + "x:acknowledge", `{"ackIds": []}`, tok, 403},
		"no messages":     {http.MethodPost, at + events + ":pull", `{}`, tok, 400},
		"no JSON":         {http.MethodPost, at + events + ":pull", `x`, tok, 400},
		"another method":  {http.MethodGet, at + events, ``, tok, 404},
		"another verb":    {http.MethodPost, at + events + ":seek", `{}`, tok, 404},
	} {
		if status, body := ask(s, tt.method, tt.target, tt.header, tt.body); status != tt.status {
			t.Errorf("%s: HTTP %d, want %d: %s", name, status, tt.status, body)
		}
	}
	// Without a message, a pull waits until its time is over.
	state.Subscriptions[events].Subscribers = []string{machine}
	header := tok.Clone()
	header.Set("X-Server-Timeout", "1")
	if status, body := ask(s, http.MethodPost, at+events+":pull", header, `{"maxMessages": 1}`); status != 200 || strings.TrimSpace(body) != "{}" {
		t.Errorf("nothing to pull: HTTP %d, %s", status, body)
	}
	state.Subscriptions[events].Subscribers = nil
	status, body := ask(s, http.MethodPost, at+events+":testIamPermissions", tok, `{"permissions": ["pubsub.subscriptions.consume"]}`)
	if status != 200 || strings.Contains(body, "consume") {
		t.Errorf("permissions without a role: HTTP %d, %s", status, body)
	}
}
