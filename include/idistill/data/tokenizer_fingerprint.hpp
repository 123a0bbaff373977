#pragma once
// What a tokenizer maps, as one number: token files carry it, so that a pool prepared with another model's tokenizer is
// noticed.

#include <optional>
#include <string>

namespace idistill::data {

/// sha256 of the vocabulary, merges and special tokens in DIR/tokenizer.json, whatever the file's layout, as
/// jobs/idistill/token_file.py defines it. Nothing when there is no such file or it is not a tokenizer.
std::optional<std::string> tokenizer_fingerprint(const std::string& model_directory);

}  // namespace idistill::data
