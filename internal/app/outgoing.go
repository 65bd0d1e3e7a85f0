package app

import (
	"crypto/tls"
	"log/slog"

	"github.com/secretbroker/secretbroker/internal/clienttls"
	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// maxKeyFile limits the size of a file with a private key, in bytes.
const maxKeyFile = 1 << 20

// outgoingTLS reads the TLS files of an outgoing connection. current reads them again for
// each connection. If log is not nil, it logs when they cannot be used any more, and when
// they can again.
func outgoingTLS(cfg clienttls.Config, to string, log *slog.Logger) (current func(*tls.Config) *tls.Config, err error) {
	cfg.ReadKey = func(path string) ([]byte, error) { return keyfile.Read(path, maxKeyFile) }
	cfg.Changed = func(problem string) {
		switch {
		case log == nil:
		case problem != "":
			log.Error("the TLS files of an outgoing connection are invalid; the last valid ones remain in use", "to", to, "error", problem)
		default:
			log.Info("the TLS files of an outgoing connection are valid again", "to", to)
		}
	}
	files, err := clienttls.Open(cfg)
	if err != nil {
		return nil, err
	}
	return func(base *tls.Config) *tls.Config {
		config, _ := files.TLS(base)
		return config
	}, nil
}
