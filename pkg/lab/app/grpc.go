package app

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The application's one gRPC method, a unary call from google.protobuf.StringValue
// to the same with an Echo as JSON in it. Written out, because the lab calls it
// through http.Transport to control connections and retries.
const (
	grpcMethod      = "/pilot.lab.Echo/Call"
	grpcContentType = "application/grpc"
	grpcOK          = "0"
	grpcInvalid     = "3"
)

// frame is a gRPC message on the wire: uncompressed, length, message.
func frame(text []byte) ([]byte, error) {
	message, err := proto.Marshal(wrapperspb.String(string(text)))
	if err != nil {
		return nil, err
	}
	head := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(head, message...), nil
}

func unframe(body []byte) ([]byte, error) {
	if len(body) < 5 || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:5])) != len(body)-5 {
		return nil, errors.New("not one uncompressed gRPC message")
	}
	var message wrapperspb.StringValue
	if err := proto.Unmarshal(body[5:], &message); err != nil {
		return nil, err
	}
	return []byte(message.GetValue()), nil
}

func answerGRPC(w http.ResponseWriter, echo []byte) {
	message, err := frame(echo)
	if err != nil {
		refuseGRPC(w, err)
		return
	}
	w.Header().Set("Content-Type", grpcContentType)
	_, _ = w.Write(message)
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", grpcOK)
}

func refuseGRPC(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", grpcContentType)
	w.Header().Set("Grpc-Status", grpcInvalid)
	w.Header().Set("Grpc-Message", err.Error())
}

// grpcAnswer reads a unary response; a status other than OK is an error.
func grpcAnswer(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp.StatusCode, body)
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), grpcContentType) {
		return nil, fmt.Errorf("not gRPC but %q", resp.Header.Get("Content-Type"))
	}
	status, message := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" { // trailers only
		status, message = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	if status != grpcOK {
		return nil, fmt.Errorf("grpc-status %s: %s", status, message)
	}
	return unframe(body)
}
