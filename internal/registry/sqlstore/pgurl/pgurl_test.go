package pgurl

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	const planted = "pl4nted-Secret"
	t.Setenv("PGPASSWORD", "of the environment")
	for url, want := range map[string]string{
		"postgres://broker@db.example.org/secretbroker":                                          "",
		"postgresql://broker@db.example.org:5433/x?application_name=y":                           "",
		"postgres://broker@a.example.org,b.example.org/x?target_session_attrs=read-write":        "",
		"postgres:///x?host=/run/postgresql&user=broker":                                         "",
		"postgres://broker@127.0.0.1/x?sslmode=disable":                                          "",
		"postgres://broker@[::1]/x?sslmode=disable":                                              "",
		"postgres://broker@db.example.org/x?sslmode=disable":                                     "verify-full",
		"postgres://broker@db.example.org/x?sslmode=prefer":                                      "verify-full",
		"postgres://broker@db.example.org/x?sslmode=require":                                     "verify-full",
		"postgres://broker@127.0.0.1,db.example.org/x?sslmode=disable":                           "verify-full",
		"postgres://broker:" + planted + "@db.example.org/x":                                     "password_file",
		"postgres://broker@db.example.org/x?password=" + planted:                                 "password_file",
		"postgres://broker@db.example.org/x?sslmode=" + planted:                                  "expected",
		"host=db.example.org password=" + planted:                                                "expected",
		"mysql://db.example.org/" + planted:                                                      "expected",
		"":                                                                                       "expected",
		"postgres://broker@db.example.org/x?sslmode=verify-full&sslrootcert=/no/such/" + planted: "expected",
	} {
		got := Check(url)
		if got == "" != (want == "") || !strings.Contains(got, want) || strings.Contains(got, planted) {
			t.Errorf("%q: %q, want %q", url, got, want)
		}
	}
}
