#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <functional>
#include <string>

#include "idistill/base/progress.hpp"

using namespace idistill;

namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// What `body` writes to standard error, which is a file meanwhile.
std::string standard_error_of(const std::function<void()>& body) {
    std::FILE* file = std::tmpfile();
    std::fflush(stderr);
    const int before = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    body();
    std::fflush(stderr);
    dup2(before, STDERR_FILENO);
    close(before);
    std::rewind(file);
    std::string text;
    std::array<char, 4096> buffer{};
    while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), file))
        text.append(buffer.data(), count);
    std::fclose(file);
    return text;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(progress)

BOOST_AUTO_TEST_CASE(line_counts_percent_in_cost_and_rates_in_samples) {
    const ProgressAmount total{1000, 500000, 8e12};
    const std::string line = Progress::line("propagate", total, {}, {100, 400000, 2e12}, 50.0);
    BOOST_TEST(contains(line, "propagate"));
    BOOST_TEST(contains(line, " 25 %"));
    BOOST_TEST(contains(line, " 2.0 samples/s"));
    BOOST_TEST(contains(line, " 8000 tokens/s"));
    BOOST_TEST(contains(line, " 2 min 30 s left"));  // three quarters of the cost at 2e12 in 50 s
}

BOOST_AUTO_TEST_CASE(recovered_work_counts_in_percent_but_not_in_rates) {
    const std::string line = Progress::line("s", {100, 1000, 10.0}, {50, 500, 5.0}, {10, 100, 1.0}, 10.0);
    BOOST_TEST(contains(line, " 60 %"));
    BOOST_TEST(contains(line, " 1.0 samples/s"));
    BOOST_TEST(contains(line, " 40 s left"));
    BOOST_TEST(contains(line, "50 % from the run before"));
}

BOOST_AUTO_TEST_CASE(hundred_percent_only_when_complete) {
    BOOST_TEST(contains(Progress::line("s", {1, 1, 1000.0}, {}, {1, 1, 999.9}, 1.0), " 99 %"));
    ProgressAmount sum;
    for (int i = 0; i < 10; ++i) sum.cost += 0.1;  // 0.99999...
    const std::string line = Progress::line("s", {1, 1, 1.0}, {}, {5, 50, sum.cost}, 7200.0);
    BOOST_TEST(contains(line, "100 %"));
    BOOST_TEST(contains(line, "in 2 h 00 min"));
    BOOST_TEST(!contains(line, "left"));
}

BOOST_AUTO_TEST_CASE(edges_have_no_nan) {
    for (const std::string& line : {Progress::line("s", {}, {}, {}, 0.0), Progress::line("s", {1, 1, 1.0}, {}, {}, 0.0),
                                    Progress::line("s", {1, 1, 1.0}, {1, 1, 1.0}, {}, 0.0)}) {
        BOOST_TEST_CONTEXT(line) {
            BOOST_TEST(!contains(line, "nan"));
            BOOST_TEST(!contains(line, "inf"));
            BOOST_TEST(!contains(line, "/s"));
        }
    }
}

BOOST_AUTO_TEST_CASE(numbers_stay_short) {
    const std::string line = Progress::line("s", {1, 1, 1.0}, {}, {12345, 2500000, 1e-6}, 1.0);
    BOOST_TEST(contains(line, " 12.3k samples/s"));
    BOOST_TEST(contains(line, " 2.50M tokens/s"));
    BOOST_TEST(contains(line, " 11 d 13 h left"));  // 999,999 s
}

BOOST_AUTO_TEST_CASE(a_file_gets_few_whole_lines) {
    const std::string text = standard_error_of([] {
        Progress progress("label landmarks", {1000, 1000, 1000.0}, {});
        for (int i = 0; i < 1000; ++i) progress.add({1, 1, 1.0});
    });
    BOOST_TEST(std::count(text.begin(), text.end(), '\n') == 2);  // the first and the last; no two within two seconds
    BOOST_TEST(!contains(text, "\r"));
    BOOST_TEST(contains(text, "  0 %"));
    BOOST_TEST(contains(text, "100 %"));
    BOOST_TEST(text.back() == '\n');
}

BOOST_AUTO_TEST_SUITE_END()
