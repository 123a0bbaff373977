#pragma once
// What a user set, by the struct that an option belongs to: every module declares its own and reads its own.

#include <any>
#include <cstdint>
#include <typeindex>
#include <unordered_map>

namespace idistill::options {

enum class Command : std::uint8_t { run, select, embed };

/// One object of every settings struct; of one that nothing was set in, the defaults.
class Values {
public:
    Command command = Command::run;
    bool plan_only = false;  ///< print what the command would do and need, and stop

    template <class Settings>
    [[nodiscard]] const Settings& of() const {
        static const Settings defaults;
        const auto found = structs_.find(typeid(Settings));
        return found == structs_.end() ? defaults : *std::any_cast<Settings>(&found->second);
    }
    template <class Settings>
    [[nodiscard]] Settings& of() {
        auto& held = structs_[typeid(Settings)];
        if (!held.has_value()) held = Settings();
        return *std::any_cast<Settings>(&held);
    }

private:
    std::unordered_map<std::type_index, std::any> structs_;
};

}  // namespace idistill::options
