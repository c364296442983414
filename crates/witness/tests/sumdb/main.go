// Checks proofs of a witness log with the packages that the Go command verifies the Go checksum database with. One proof in each
// line of the input, one verdict in each line of the output.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A proof as `ifmesh witness prove` writes it, or one of growth; which is meant shows by the members that it has.
type proof struct {
	Key        string   `json:"key"`
	Line       string   `json:"line"`
	Index      int64    `json:"index"`
	Checkpoint string   `json:"checkpoint"`
	Old        string   `json:"old"`
	New        string   `json:"new"`
	Path       []string `json:"path"`
}

// open verifies a signed note, and gives the size and the root of the tree that it is about.
func open(text, key string) (int64, tlog.Hash, error) {
	var root tlog.Hash
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return 0, root, err
	}
	signed, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		return 0, root, err
	}
	lines := strings.Split(signed.Text, "\n")
	if len(lines) < 3 || lines[0] != verifier.Name() {
		return 0, root, errors.New("not a checkpoint of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return 0, root, err
	}
	bytes, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || copy(root[:], bytes) != len(root) {
		return 0, root, errors.New("not a root")
	}
	return size, root, nil
}

func check(given proof) error {
	path := make([]tlog.Hash, len(given.Path))
	for at, text := range given.Path {
		bytes, err := hex.DecodeString(text)
		if err != nil || copy(path[at][:], bytes) != len(path[at]) {
			return errors.New("not a hash")
		}
	}
	if given.Line != "" {
		size, root, err := open(given.Checkpoint, given.Key)
		if err != nil {
			return err
		}
		return tlog.CheckRecord(path, size, root, given.Index, tlog.RecordHash([]byte(given.Line)))
	}
	oldSize, oldRoot, err := open(given.Old, given.Key)
	if err != nil {
		return err
	}
	newSize, newRoot, err := open(given.New, given.Key)
	if err != nil {
		return err
	}
	return tlog.CheckTree(path, newSize, newRoot, oldSize, oldRoot)
}

func main() {
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 1<<20)
	for input.Scan() {
		var given proof
		err := json.Unmarshal(input.Bytes(), &given)
		if err == nil {
			err = check(given)
		}
		if err != nil {
			fmt.Println("refused:", err)
		} else {
			fmt.Println("verified")
		}
	}
}
