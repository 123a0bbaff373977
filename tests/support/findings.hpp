#pragma once
// Boost.Test's checks are not made for several threads: ranks that are threads collect what they find wrong, the test's
// thread checks it.

#include <mutex>
#include <string>

namespace idistill::test {

class Findings {
public:
    void expect(bool holds, const std::string& what) {
        if (holds) return;
        const std::scoped_lock lock(mutex_);
        text_ += what + "; ";
    }
    [[nodiscard]] const std::string& text() const { return text_; }

private:
    std::mutex mutex_;
    std::string text_;
};

}  // namespace idistill::test
