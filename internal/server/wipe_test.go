package server

import (
	"context"
	"testing"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The values of a result are wiped as soon as the message contains them.
func TestAnswersAreWiped(t *testing.T) {
	ts := startServer(t)
	value, decoded := []byte("the-value"), []byte{0xff, 'b'}
	ts.resolver.next = func(context.Context) (*resolve.Result, error) {
		return &resolve.Result{Configs: []resolve.Resolved{
			{Config: "p", Value: secret.NewValue(value)},
			{Config: "q", Value: secret.NewValue(decoded), Decoded: true},
		}}, nil
	}
	res, err := ask(t, ts.dial(t, ts.ca.Client(string(granted))), &secretbrokerv1.ResolveRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.GetConfigs(); got["p"].GetValue() != "the-value" || string(got["q"].GetDecodedValue()) != "\xffb" {
		t.Errorf("the answer is incomplete: %v", res)
	}
	if string(value) != "\x00\x00\x00\x00\x00\x00\x00\x00\x00" || string(decoded) != "\x00\x00" {
		t.Errorf("the values still are %q, %q", value, decoded)
	}
}
