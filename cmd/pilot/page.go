package main

import (
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
	base, err := url.Parse(strings.TrimSuffix(server, "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return fmt.Errorf("--server: %q is no URL such as http://127.0.0.1:8080", server)
	}
	page := base.JoinPath(path)
	page.RawQuery = query.Encode()
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, page.String(), nil)
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var failure struct{ Error string }
		if json.Unmarshal(body, &failure) == nil && failure.Error != "" {
			return fmt.Errorf("%s", failure.Error)
		}
		return fmt.Errorf("--server: %s answers %s", page, response.Status)
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("--server: %s is no control plane of this version: %w", page, err)
	}
	return nil
}
