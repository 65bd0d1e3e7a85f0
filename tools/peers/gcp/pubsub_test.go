package gcp

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/gcpsm"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	project      = "projects/my-project"
	topic        = project + "/topics/secrets"
	subscription = project + "/subscriptions/secrets"
)

// rest serves the REST API of Pub/Sub with Google's fake, which has only gRPC: the messages of
// both are the same, in protobuf's JSON mapping.
type rest struct {
	subscriber pubsubpb.SubscriberClient
	called     map[string]int
}

func (r *rest) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name, method, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v1/"), ":")
	body, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	ctx := req.Context()
	if seconds, err := strconv.Atoi(req.Header.Get("X-Server-Timeout")); err == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
		defer cancel()
	}
	r.called[method]++
	var answer proto.Message
	switch method {
	case "pull":
		in := &pubsubpb.PullRequest{}
		if err = protojson.Unmarshal(body, in); err == nil {
			in.Subscription = name
			answer, err = r.subscriber.Pull(ctx, in)
		}
	case "acknowledge":
		in := &pubsubpb.AcknowledgeRequest{}
		if err = protojson.Unmarshal(body, in); err == nil {
			in.Subscription = name
			answer, err = r.subscriber.Acknowledge(ctx, in)
		}
	case "modifyAckDeadline":
		in := &pubsubpb.ModifyAckDeadlineRequest{}
		if err = protojson.Unmarshal(body, in); err == nil {
			in.Subscription = name
			answer, err = r.subscriber.ModifyAckDeadline(ctx, in)
		}
	}
	if err != nil || answer == nil {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"error": {"code": 404, "status": "NOT_FOUND", "message": `+strconv.Quote(status.Convert(err).Message())+`}}`)
		return
	}
	text, err := protojson.Marshal(answer)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(text)
}

// TestPubSub: the broker's source receives what Google's client publishes to Google's fake.
func TestPubSub(t *testing.T) {
	w := start(t)
	srv := pstest.NewServer()
	defer srv.Close()
	conn, err := grpc.NewClient(srv.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	_, err = pubsubpb.NewPublisherClient(conn).CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic})
	must(t, err)
	subscriber := pubsubpb.NewSubscriberClient(conn)
	_, err = subscriber.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: subscription, Topic: topic, AckDeadlineSeconds: 10})
	must(t, err)

	env := providertest.NewEnv(t)
	front := &rest{subscriber, make(map[string]int)}
	env.Serve(env.Certificate("*.googleapis.com"), front, "pubsub.googleapis.com")
	env.Serve(env.Certificate("*.googleapis.com"), w.server, "oauth2.googleapis.com")
	keyFile := filepath.Join(t.TempDir(), "key.json")
	must(t, os.WriteFile(keyFile, w.keyJSON, 0o600))
	source := func(name string) provider.EventSource {
		s, err := gcpsm.EventOpener(env.Config())(t.Context(), &integration.Integration{
			ID: "it", Kind: secret.KindGCPSecretManager,
			Settings: &gcpsm.Settings{
				Stores: []string{project}, Credential: gcpsm.Credential{Type: gcpsm.ServiceAccountKey, KeyFile: keyFile},
				CAFile: env.CAFile, Dial: env.Dial, Events: &gcpsm.Events{Subscription: name, Host: "pubsub.googleapis.com"},
			},
		})
		must(t, err)
		t.Cleanup(func() { must(t, s.Close()) })
		return s
	}

	client, err := pubsub.NewClient(t.Context(), "my-project", option.WithGRPCConn(conn))
	must(t, err)
	defer client.Close()
	publisher := client.Publisher("secrets")
	defer publisher.Stop()
	publish := func(attributes map[string]string, data []byte) (id string) {
		id, err := publisher.Publish(t.Context(), &pubsub.Message{Attributes: attributes, Data: data}).Get(t.Context())
		must(t, err)
		return id
	}
	const secretID = "projects/123456789012/secrets/db"
	ids := []string{
		publish(map[string]string{"eventType": "TOPIC_CONFIGURED"}, nil),
		publish(map[string]string{
			"eventType": "SECRET_VERSION_ADD", "dataFormat": "JSON_API_V1", "secretId": secretID, "versionId": secretID + "/versions/7", "timestamp": "2026-01-20T11:17:45.081104-08:00",
		}, []byte(`{"name": "`+secretID+`/versions/7"}`)),
		publish(nil, bytes.Repeat([]byte("x"), 1<<20)),
	}

	s := source(subscription)
	got := make(map[string]provider.EventMessage)
	for end := time.Now().Add(time.Minute); len(got) < len(ids); {
		messages, err := s.Receive(t.Context())
		must(t, err)
		must(t, s.Acknowledge(t.Context(), messages))
		for _, m := range messages {
			got[m.ID] = m
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d messages", len(got), len(ids))
		}
	}
	for i, want := range []struct{ events, problem string }{
		{"", ""},
		{project + " db 7 SECRET_VERSION_ADD", ""},
		{"", "the message has no attribute eventType"},
	} {
		m, events := got[ids[i]], ""
		for _, e := range m.Events {
			events += strings.Join([]string{e.Store, e.Name, e.Version, e.Type}, " ")
		}
		if events != want.events || m.Problem != want.problem || m.SentAt.IsZero() {
			t.Errorf("message %d: %+v", i, m)
		}
		if acks := srv.Message(ids[i]).Acks; acks != 1 {
			t.Errorf("message %d was acknowledged %d times", i, acks)
		}
	}
	if n := front.called["modifyAckDeadline"]; n == 0 || n > front.called["pull"] {
		t.Errorf("calls %v", front.called)
	}
	if _, err := source(subscription + "-2").Receive(t.Context()); secret.AsError(err).Reason != secret.ReasonStoreNotFound {
		t.Errorf("a subscription that does not exist: %v", err)
	}
}
