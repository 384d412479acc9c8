#include "CNibbleSentencePiece.h"

#include <sentencepiece_processor.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <vector>

struct nibble_sentencepiece {
  sentencepiece::SentencePieceProcessor processor;
};

namespace {

void explain(const char *reason, char *error, size_t error_size) {
  if (error_size == 0) return;
  std::strncpy(error, reason, error_size - 1);
  error[error_size - 1] = 0;
}

/// Runs `body`, which returns an empty text or what went wrong. Nothing that is thrown gets past here.
template <typename Body>
int guarded(char *error, size_t error_size, Body body) {
  try {
    const std::string reason = body();
    if (reason.empty()) return 0;
    explain(reason.c_str(), error, error_size);
  } catch (const std::exception &exception) {
    explain(exception.what(), error, error_size);
  } catch (...) {
    explain("an unknown exception", error, error_size);
  }
  return -1;
}

/// Copies a vector or string into memory that C can free.
template <typename Element, typename List>
std::string hand_over(const List &list, Element **memory, size_t *count) {
  *count = list.size();
  *memory = static_cast<Element *>(std::malloc(list.size() * sizeof(Element) + 1));
  if (*memory == nullptr) return "out of memory";
  // An empty list may be nowhere.
  if (!list.empty()) std::memcpy(*memory, list.data(), list.size() * sizeof(Element));
  return "";
}

}  // namespace

extern "C" nibble_sentencepiece *nibble_sentencepiece_open(
    const uint8_t *bytes, size_t count, char *error, size_t error_size) {
  nibble_sentencepiece *model = nullptr;
  const int result = guarded(error, error_size, [&]() -> std::string {
    model = new nibble_sentencepiece;
    const auto status =
        model->processor.LoadFromSerializedProto(absl::string_view(reinterpret_cast<const char *>(bytes), count));
    return status.ok() ? "" : std::string("libsentencepiece: ") + status.ToString();
  });
  if (result == 0) return model;
  delete model;
  return nullptr;
}

extern "C" void nibble_sentencepiece_close(nibble_sentencepiece *model) { delete model; }

extern "C" int nibble_sentencepiece_encode(
    const nibble_sentencepiece *model, const uint8_t *text, size_t length, int32_t **ids, size_t *count, char *error,
    size_t error_size) {
  return guarded(error, error_size, [&]() -> std::string {
    std::vector<int> list;
    const auto status =
        model->processor.Encode(absl::string_view(reinterpret_cast<const char *>(text), length), &list);
    if (!status.ok()) return std::string("libsentencepiece: ") + status.ToString();
    return hand_over(list, ids, count);
  });
}

extern "C" int nibble_sentencepiece_decode(
    const nibble_sentencepiece *model, const int32_t *ids, size_t count, uint8_t **text, size_t *length, char *error,
    size_t error_size) {
  return guarded(error, error_size, [&]() -> std::string {
    std::string decoded;
    const auto status = model->processor.Decode(std::vector<int>(ids, ids + count), &decoded);
    if (!status.ok()) return std::string("libsentencepiece: ") + status.ToString();
    return hand_over(decoded, text, length);
  });
}

extern "C" void nibble_sentencepiece_free(void *memory) { std::free(memory); }
