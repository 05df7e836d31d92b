"""The .proto files of both gRPC services, and what ``make proto`` generates from them: never edited by hand."""
