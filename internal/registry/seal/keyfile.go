package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// maxKeyFile is the maximum size of a key file, in bytes.
const maxKeyFile = 64 << 10

// Create creates a key file with one new key, readable only by its owner. It never
// overwrites a file, because what the old keys have sealed could no longer be opened.
func Create(path string) error {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return errors.New("seal: no key could be made")
	}
	b, err := encode(handle)
	if err != nil {
		return err
	}
	defer clear(b)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	return finish(f, b)
}

// Add adds a new key to a key file. The key opens but does not seal yet: every replica
// must have it before the first one seals with it.
func Add(path string) error {
	return change(path, func(m *keyset.Manager, _ *keyset.Handle) error {
		_, err := m.Add(aead.AES256GCMKeyTemplate())
		return err
	})
}

// Use makes the newest key of a key file the one that seals.
func Use(path string) error {
	return change(path, func(m *keyset.Manager, h *keyset.Handle) error {
		infos := h.KeysetInfo().GetKeyInfo()
		return m.SetPrimary(infos[len(infos)-1].GetKeyId())
	})
}

// Drop removes the keys of a key file that do not seal. What is still sealed with them,
// including backups, can no longer be opened.
func Drop(path string) error {
	return change(path, func(m *keyset.Manager, h *keyset.Handle) error {
		info := h.KeysetInfo()
		for _, key := range info.GetKeyInfo() {
			if key.GetKeyId() == info.GetPrimaryKeyId() {
				continue
			}
			if err := m.Delete(key.GetKeyId()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Key is the public information about a key.
type Key struct {
	ID uint32
	// Seals is whether it is the key that seals; all others only open.
	Seals bool
}

// List returns the keys of a key file, oldest first.
func List(path string) ([]Key, error) {
	handle, err := read(path)
	if err != nil {
		return nil, err
	}
	info := handle.KeysetInfo()
	var keys []Key
	for _, k := range info.GetKeyInfo() {
		keys = append(keys, Key{ID: k.GetKeyId(), Seals: k.GetKeyId() == info.GetPrimaryKeyId()})
	}
	return keys, nil
}

// change replaces a key file atomically.
func change(path string, edit func(*keyset.Manager, *keyset.Handle) error) error {
	handle, err := read(path)
	if err != nil {
		return err
	}
	m := keyset.NewManagerFromHandle(handle)
	if err := edit(m, handle); err != nil {
		return fmt.Errorf("seal: %s: the keys could not be changed", path)
	}
	if handle, err = m.Handle(); err != nil {
		return fmt.Errorf("seal: %s: the keys could not be changed", path)
	}
	b, err := encode(handle)
	if err != nil {
		return err
	}
	defer clear(b)
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	if err := finish(f, b); err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("seal: %w", err)
	}
	return nil
}

func encode(handle *keyset.Handle) ([]byte, error) {
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&b)); err != nil {
		return nil, errors.New("seal: the keys could not be written down")
	}
	return append(b.Bytes(), '\n'), nil
}

func finish(f *os.File, b []byte) error {
	_, err := f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	return nil
}

// read reads a key file. It wraps no error of a parser, because such an error may quote
// the file.
func read(path string) (*keyset.Handle, error) {
	b, err := keyfile.Read(path, maxKeyFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("seal: there is no key file %s; make one with: secretbroker seal create-key %s", path, path)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	defer clear(b)
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(b)))
	if err != nil {
		return nil, fmt.Errorf("seal: %s is not a key file as secretbroker seal create-key makes it", path)
	}
	return handle, nil
}

// primaryPrefix is the prefix of everything that the primary key seals: a version and the
// key's id (developers.google.com/tink/wire-format).
func primaryPrefix(handle *keyset.Handle) (string, error) {
	info := handle.KeysetInfo()
	for _, k := range info.GetKeyInfo() {
		if k.GetKeyId() != info.GetPrimaryKeyId() {
			continue
		}
		if k.GetOutputPrefixType() != tinkpb.OutputPrefixType_TINK {
			return "", errors.New("the key does not mark what it seals")
		}
		return string(binary.BigEndian.AppendUint32([]byte{1}, k.GetKeyId())), nil
	}
	return "", errors.New("no key of the file seals")
}

// KeyID returns the id, as in List, of the key that sealed the bytes, or 0 if they do not
// contain one.
func KeyID(sealed []byte) uint32 {
	if len(sealed) < 5 || sealed[0] != 1 {
		return 0
	}
	return binary.BigEndian.Uint32(sealed[1:5])
}
