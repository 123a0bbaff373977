#include "flat_toml.hpp"

#include <algorithm>

#include "idistill/report/error.hpp"
#include "text.hpp"

namespace idistill::config {
namespace {

class Reader {
public:
    Reader(std::string_view text, const std::string& file) : text_(text), file_(file) {}

    std::vector<TomlItem> items() {
        std::vector<TomlItem> found;
        for (skip_blank(true); !at_end(); skip_blank(true)) {
            found.push_back(item());
            const auto& key = found.back().key;
            const auto same = [&key](const TomlItem& other) { return other.key == key; };
            if (std::any_of(found.begin(), found.end() - 1, same))
                fail("every key once", in_quotes(key) + " again", key);
            skip_blank(false);
            if (!at_end() && peek() != '\n') fail("the end of the line", rest_of_line());
        }
        return found;
    }

private:
    [[nodiscard]] bool at_end() const { return position_ >= text_.size(); }
    [[nodiscard]] char peek() const { return at_end() ? '\n' : text_[position_]; }

    char take() {
        const char c = peek();
        if (c == '\n') ++line_;
        ++position_;
        return c;
    }

    /// Skips spaces and a comment; with `lines` also line ends.
    void skip_blank(bool lines) {
        while (!at_end()) {
            const char c = peek();
            if (c == '#') {
                while (!at_end() && peek() != '\n') take();
            } else if (c == ' ' || c == '\t' || c == '\r' || (lines && c == '\n')) {
                take();
            } else {
                return;
            }
        }
    }

    TomlItem item() {
        TomlItem item;
        item.line = line_;
        if (peek() == '[')
            fail("key = value", "a table " + rest_of_line(), {}, "Settings files are flat: remove the table.");
        item.key = peek() == '"' || peek() == '\'' ? string() : bare();
        if (item.key.empty()) fail("key = value", rest_of_line());
        skip_blank(false);
        if (peek() != '=') fail("'=' after the key " + in_quotes(item.key), rest_of_line(), item.key);
        take();
        skip_blank(false);
        item.array = peek() == '[';
        if (item.array) {
            item.values = array(item.key);
        } else {
            item.values.push_back(value(item.key));
        }
        return item;
    }

    std::vector<std::string> array(const std::string& key) {
        std::vector<std::string> values;
        take();
        for (skip_blank(true); peek() != ']'; skip_blank(true)) {
            if (at_end()) fail("']' at the end of the array", "the end of the file", key);
            values.push_back(value(key));
            skip_blank(true);
            if (peek() == ',') {
                take();
            } else if (peek() != ']') {
                fail("',' or ']' in the array", rest_of_line(), key);
            }
        }
        take();
        return values;
    }

    std::string value(const std::string& key) {
        if (peek() == '"' || peek() == '\'') return string();
        const std::string word = bare();
        const bool number = !word.empty() && (word[0] == '-' || word[0] == '+' || (word[0] >= '0' && word[0] <= '9'));
        if (word == "true" || word == "false") return word;
        if (!number || word.find('%') != std::string::npos) {
            const std::string found = word.empty() ? rest_of_line() : word;
            fail("a string in quotes, a number, true, false or an array", found, key,
                 "Write " + key + " = \"" + (word.empty() ? "..." : word) + "\" if a string is meant.");
        }
        std::string digits;
        for (const char c : word) {
            if (c != '_') digits += c;
        }
        return digits[0] == '+' ? digits.substr(1) : digits;
    }

    std::string bare() {
        std::string word;
        const auto part_of_word = [](char c) {
            return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
                   c == '+' || c == '.' || c == '%';
        };
        while (!at_end() && part_of_word(peek())) word += take();
        return word;
    }

    std::string string() {
        const char quote = take();
        std::string content;
        while (peek() != quote) {
            if (peek() == '\n') fail(std::string("a closing ") + quote, "the end of the line");
            const char c = take();
            content += c == '\\' && quote == '"' ? escaped() : c;
        }
        take();
        return content;
    }

    char escaped() {
        switch (const char c = take()) {
            case '"':
            case '\\':
                return c;
            case 'n':
                return '\n';
            case 't':
                return '\t';
            default:
                fail(R"(\" \\ \n or \t in a string)", std::string("\\") + c, {},
                     "Use single quotes for text with backslashes, such as a regular expression.");
        }
    }

    [[nodiscard]] std::string rest_of_line() const {
        const auto end = std::min(text_.find('\n', position_), text_.size());
        const auto begin = std::min(position_, end);
        return begin == end ? "nothing" : in_quotes(text_.substr(begin, end - begin));
    }

    [[noreturn]] void fail(const std::string& expected, const std::string& found, const std::string& key = {},
                           const std::string& remedy = {}) const {
        throw Error(ExitCode::usage, {file_ + " line " + std::to_string(line_), key, expected, found, remedy});
    }

    std::string_view text_;
    std::string file_;
    std::size_t position_ = 0;
    int line_ = 1;
};

}  // namespace

std::vector<TomlItem> parse_flat_toml(std::string_view text, const std::string& file) {
    return Reader(text, file).items();
}

}  // namespace idistill::config
