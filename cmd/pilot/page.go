package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const pageTimeout = time.Minute

// getPage asks a running control plane for one of its pages.
func getPage(ctx context.Context, server, path string, query url.Values, answer any) error {
	return askPage(ctx, server, path, query, nil, answer)
}

// askPage sends a body to a page, if there is one.
func askPage(ctx context.Context, server, path string, query url.Values, body, answer any) error {
	base, err := url.Parse(strings.TrimSuffix(server, "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return fmt.Errorf("--server: %q is no URL such as http://127.0.0.1:8080", server)
	}
	page := base.JoinPath(path)
	page.RawQuery = query.Encode()
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	method, payload := http.MethodGet, []byte(nil)
	if body != nil {
		method = http.MethodPost
		if payload, err = json.Marshal(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, page.String(), bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var failure struct{ Error string }
		if json.Unmarshal(content, &failure) == nil && failure.Error != "" {
			return fmt.Errorf("%s", failure.Error)
		}
		return fmt.Errorf("--server: %s answers %s", page, response.Status)
	}
	if err := json.Unmarshal(content, answer); err != nil {
		return fmt.Errorf("--server: %s is no control plane of this version: %w", page, err)
	}
	return nil
}
