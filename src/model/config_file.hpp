#pragma once
// config.json of a model directory with its keys.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace idistill::model {

/// Every access checks the type and, on failure, names file, key and value.
class ConfigFile {
public:
    /// Throws Error(bad_input) also for what is no model directory: an adapter's, a Hugging Face id, a single file.
    explicit ConfigFile(const std::string& model_directory);

    [[noreturn]] void refuse(const std::string& key, const std::string& expected, const std::string& found,
                             const std::string& remedy) const;

    /// The value, or null when the key is missing or null.
    [[nodiscard]] nlohmann::json value(const std::string& key) const { return values_.value(key, nlohmann::json()); }
    /// True for a key that is there, null or not.
    [[nodiscard]] bool has(const std::string& key) const { return values_.contains(key); }

    [[nodiscard]] std::int64_t size(const std::string& key, std::optional<std::int64_t> standard) const;
    [[nodiscard]] bool flag(const std::string& key, bool standard) const;
    /// Above 0, of the file or of an object in it, whose name with a dot is `prefix`.
    [[nodiscard]] double number(const nlohmann::json& object, const std::string& prefix, const std::string& key,
                                std::optional<double> standard) const;
    [[nodiscard]] double number(const std::string& key, std::optional<double> standard) const {
        return number(values_, "", key, standard);
    }

    static std::string shown(const nlohmann::json& value) { return value.is_null() ? "nothing" : value.dump(); }

private:
    std::string path_;
    nlohmann::json values_;
};

/// Ends the message about a value that cannot be right: a file that can be read is not damaged.
inline const std::string correct_value = "Correct it, or take config.json as it was published with the model.";

}  // namespace idistill::model
